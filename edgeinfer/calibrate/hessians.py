"""Products of activations for one weight after the other, in the order of layers, without holding those of a whole
model: the text is read once for as many layers as fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edgeinfer.calibrate.reading import Products, Sample

__all__ = ["Hessians", "Reading"]

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_SAME_INPUT = (("attn_q.weight", "attn_k.weight", "attn_v.weight"), ("ffn_gate.weight", "ffn_up.weight"))


class Reading(Protocol):
    """A model that reads a text as often as it is asked for something: `Calibrator`, `PackageReader`."""

    sample: Sample

    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """(n_experts, n_cols) of each weight."""
        ...

    def products(self, names: Sequence[str]) -> Mapping[str, Products]:
        """Of these weights, those that nothing is known of left out."""
        ...


class Hessians:
    """``most_bytes``: of products held at once; one weight's are always. Weights that multiply the same activations
    share theirs. ``order``: in which they will be asked for (None: by layers). ``said`` hears of each reading."""

    def __init__(
        self,
        reading: Reading,
        most_bytes: int,
        said: Callable[[str], None] = lambda _what: None,
        order: Sequence[str] | None = None,
    ) -> None:
        self._reading = reading
        self._most_bytes = most_bytes
        self._said = said
        self._shapes = reading.shapes()
        names = sorted(self._shapes, key=_place) if order is None else order
        leaders = dict.fromkeys(map(self._leader, names))
        self._order = [name for name in leaders if self._shapes.get(name, (0, 0))[0] == 1]
        self._held: Mapping[str, Products] = {}
        self._unknown: set[str] = set()
        self.n_readings = 0
        """How often the text was read so far."""

    def of(self, name: str) -> Products | None:
        """Of a weight; None where it has none of its own: experts, tables, what our products do not compute. Cheap in
        the order that was said; asking for an earlier one again reads the text again."""
        leader = self._leader(name)
        if leader not in self._shapes or self._shapes[leader][0] != 1:
            return None
        if leader not in self._held and leader not in self._unknown:
            self._held = {}  # before new ones are made
            batch = self._batch(leader)
            last = f" to {batch[-1]}" if len(batch) > 1 else ""
            self._said(f"reading {self._reading.sample.name} for {leader}{last}")
            self._held = self._reading.products(batch)
            self._unknown |= set(batch) - set(self._held)
            self.n_readings += 1
        return self._held.get(leader)

    def _batch(self, first: str) -> Sequence[str]:
        """``first``, and what follows it as far as the memory goes."""
        batch, n_bytes = [first], self._n_bytes(first)
        at = self._order.index(first) if first in self._order else len(self._order)
        for name in self._order[at + 1 :]:
            n_bytes += self._n_bytes(name)
            if n_bytes > self._most_bytes:
                break
            batch.append(name)
        return batch

    def _n_bytes(self, name: str) -> int:
        return 4 * self._shapes[name][1] ** 2

    def _leader(self, name: str) -> str:
        found = _LAYER.fullmatch(name)
        for group in _SAME_INPUT:
            if found and found[2] in group:
                names = [f"blk.{found[1]}.{part}" for part in group]
                return next((one for one in names if one in self._shapes), name)
        return name


def _place(name: str) -> tuple[int, str]:
    """Layers in order, then what is in none."""
    found = _LAYER.fullmatch(name)
    return (int(found[1]), found[2]) if found else (1 << 30, name)
