"""What a forward pass costs by the number of its tokens: measured on this machine, remembered, and asked by whoever
weighs a draft against its price. In milliseconds, but only ratios of one curve, or of curves measured together, mean
anything."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer import env
from edgeinfer.engines.base import Engine, Slice
from edgeinfer.files import atomic_write

__all__ = ["ROWS", "CostCurve", "forget", "measure", "recall", "remember", "remembered"]

ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
_DEPTHS = (32, 512)
_ROUNDS = 5
_N_READ = 128  # tokens of the pass that the price of reading is taken from
_VERSION = 1


@dataclass(frozen=True, slots=True)
class CostCurve:
    """``ms[d][i]``: one pass of ``ROWS[i]`` tokens of one sequence with ``depths[d]`` tokens before them, logits of all
    of them and the best of each found. ``read_ms``: a token of a long pass without logits."""

    depths: tuple[int, int]
    ms: tuple[tuple[float, ...], tuple[float, ...]]
    read_ms: float

    def __post_init__(self) -> None:
        rows = (*self.ms[0], *self.ms[1], self.read_ms)
        if len(self.ms[0]) != len(ROWS) or len(self.ms[1]) != len(ROWS) or not all(0 < ms < 1e7 for ms in rows):
            raise ValueError("a cost curve has a positive time for each number of rows")
        if not 0 <= self.depths[0] < self.depths[1] < 1 << 31:
            raise ValueError("the depths of a cost curve ascend, and are those of a context")

    def at(self, depth: float) -> Price:
        """The curve at a depth: linear in it, as attention is, beyond what was measured too."""
        near, far = np.array(self.ms[0]), np.array(self.ms[1])
        slope = np.maximum(far - near, 0.0) / (self.depths[1] - self.depths[0])
        return Price(np.maximum.accumulate(near + slope * max(depth - self.depths[0], 0.0)))

    def growth(self, depth: int) -> dict[int, float]:
        """v(n): what a pass of n tokens takes, in passes of one; for each n that was measured."""
        price = self.at(depth)
        return {n: price(n) / price(1) for n in ROWS}


class Price:
    """Milliseconds by number of rows at one depth: linear between the measured ones. Beyond, a row costs what the last
    ones did, and no less than those of the longest pass did on average: where that had luck, none is free."""

    def __init__(self, ms: npt.NDArray[np.float64]) -> None:
        whole = np.interp(np.arange(ROWS[-1] + 1), ROWS, ms)
        whole[0] = 0.0
        self._ms: list[float] = whole.tolist()
        self._slope = max(float(ms[-1] - ms[-2]) / (ROWS[-1] - ROWS[-2]), float(ms[-1]) / ROWS[-1])

    def __call__(self, n_rows: int) -> float:
        last = len(self._ms) - 1
        return self._ms[n_rows] if n_rows <= last else self._ms[last] + (n_rows - last) * self._slope


def measure(engine: Engine, said: Callable[[str], None] = lambda _what: None) -> CostCurve:
    """Time passes of 1 to 16 tokens at two depths. Sequence 0 is overwritten and released. Some hundred passes."""
    depths = (_DEPTHS[0], max(_DEPTHS[0] + 1, min(_DEPTHS[1], engine.n_ctx - ROWS[-1])))
    tokens = np.random.default_rng(0).integers(0, max(1, engine.n_vocab // 2), depths[1] + ROWS[-1]).astype(np.int32)
    engine.release(0)
    curves, n_held, read_ms = [], 0, []
    try:
        for depth in depths:
            while n_held < depth:
                part = tokens[n_held : min(depth, n_held + min(_N_READ, engine.n_batch))]
                read_ms.append(_timed(engine, Slice(0, part, n_held, 0)) / len(part))
                n_held += len(part)
            said(f"passes of 1 to {ROWS[-1]} tokens at {depth}")
            curves.append(tuple(_curve(engine, tokens, depth)))
    finally:
        engine.release(0)
    return CostCurve(depths, (curves[0], curves[1]), min(read_ms))


def _curve(engine: Engine, tokens: npt.NDArray[np.int32], depth: int) -> list[float]:
    """The least of a few times each, in milliseconds: what disturbs a pass only ever makes it longer. The sizes take
    turns, so that a slow moment spoils one try of each."""
    times: dict[int, list[float]] = {n: [] for n in ROWS}
    for _ in range(_ROUNDS):
        for n in ROWS:
            times[n].append(_timed(engine, Slice(0, tokens[depth : depth + n], depth, n)))
            engine.truncate(0, depth)
    return [min(times[n]) for n in ROWS]


def _timed(engine: Engine, part: Slice) -> float:
    begin = time.perf_counter()
    rows = engine.forward([part])
    if len(rows):
        rows.argmax(axis=1)
    return 1e3 * (time.perf_counter() - begin)


# ---- memory of it


def _store() -> Path:
    return env.cache_dir() / "costs.json"


def _entries() -> dict[str, Any]:
    """Damaged counts as empty: it can be measured again."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        document = json.loads(_store().read_text())
        if document["version"] == _VERSION and isinstance(document["costs"], dict):
            return dict(document["costs"])
    return {}


def _key(parts: Sequence[object]) -> str:
    return " ".join(str(part) for part in parts)


def recall(*what: object) -> CostCurve | None:
    """The curve remembered for this model, machine, threads and kernels, each told by whoever knows."""
    return _parsed(_entries().get(_key(what)))


def _parsed(entry: Any) -> CostCurve | None:
    with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
        near, far = (tuple(float(ms) for ms in row) for row in entry["ms"])
        first, second = (int(depth) for depth in entry["depths"])
        return CostCurve((first, second), (near, far), float(entry["read_ms"]))
    return None


def remember(curve: CostCurve, *what: object) -> None:
    """Keep a curve for `recall` with the same words."""
    _write({**_entries(), _key(what): asdict(curve)})


def remembered(*first: object) -> dict[str, CostCurve]:
    """All curves remembered under words that begin with these, by the rest of their words."""
    begin = _key(first) + " "
    curves = {key[len(begin) :]: _parsed(entry) for key, entry in _entries().items() if key.startswith(begin)}
    return {rest: curve for rest, curve in curves.items() if curve is not None}


def forget(*first: object) -> bool:
    """Drop what `remembered` answers; false when there was nothing."""
    begin, entries = _key(first) + " ", _entries()
    kept = {key: entry for key, entry in entries.items() if not key.startswith(begin)}
    if len(kept) < len(entries):
        _write(kept)
    return len(kept) < len(entries)


def _write(entries: dict[str, Any]) -> None:
    atomic_write(_store(), json.dumps({"version": _VERSION, "costs": entries}, indent=1))
