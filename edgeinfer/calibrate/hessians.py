"""Products of activations for one weight after the other, in the order of layers, without holding those of a whole
model: the text is read once for as many layers as fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from edgeinfer.calibrate.reading import Calibrator, Products

__all__ = ["Hessians"]

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_SAME_INPUT = (("attn_q.weight", "attn_k.weight", "attn_v.weight"), ("ffn_gate.weight", "ffn_up.weight"))


class Hessians:
    """``most_bytes``: of products held at once; one weight's are always. Weights that multiply the same activations
    share theirs. ``said`` hears of each reading."""

    def __init__(
        self, calibrator: Calibrator, most_bytes: int, said: Callable[[str], None] = lambda _what: None
    ) -> None:
        self._calibrator = calibrator
        self._most_bytes = most_bytes
        self._said = said
        self._shapes = calibrator.shapes()
        self._left = sorted({self._leader(name) for name in self._shapes}, key=_place)
        self._held: dict[str, Products] = {}
        self.n_readings = 0
        """How often the text was read so far."""

    def of(self, name: str) -> Products | None:
        """Of a weight; None where it has none of its own: experts, tables, what our products do not compute. Cheap in
        the order of layers; asking for an earlier one again reads the text again."""
        leader = self._leader(name)
        if leader not in self._shapes or self._shapes[leader][0] != 1:
            return None
        if leader not in self._held:
            self._held = {}  # before new ones are made
            batch = self._batch(leader)
            last = f" to {batch[-1]}" if len(batch) > 1 else ""
            self._said(f"reading {self._calibrator.sample.name} for {leader}{last}")
            self._held = self._calibrator.products(batch)
            self.n_readings += 1
            self._left = [other for other in self._left if other not in batch]
        return self._held.get(leader)

    def _batch(self, first: str) -> Sequence[str]:
        """``first``, and what follows it as far as the memory goes."""
        batch, n_bytes = [first], self._n_bytes(first)
        for name in self._left:
            if name == first or _place(name) < _place(first) or self._shapes[name][0] != 1:
                continue
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
