"""Which cell of a shared cache holds which position of which sequence. Knows no keys, no values and no engine.

A cell belongs to every sequence that has it: a fork takes over its source's cells, and a cell is free when nobody has
it any more. Free cells are taken from the lowest on, so that passes have few to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeinfer.engines.base import Slice
from edgeinfer.errors import EngineError

__all__ = ["CellTable"]

Cells = npt.NDArray[np.int64]
Mask = npt.NDArray[np.float16]
_NOTHING: Cells = np.empty(0, np.int64)


class CellTable:
    """``n_cells`` cells for ``n_seq_max`` sequences. A sequence's cells are in the order of its positions."""

    def __init__(self, n_cells: int, n_seq_max: int) -> None:
        self.n_cells = n_cells
        self._held = [_NOTHING] * n_seq_max
        self._users = np.zeros(n_cells, np.int32)

    def of(self, seq: int) -> Cells:
        """The sequence's cells. Do not change the array."""
        return self._held[seq]

    @property
    def n_used(self) -> int:
        return int(np.count_nonzero(self._users))

    def place(self, slices: Sequence[Slice]) -> Cells:
        """Cells for the tokens of all slices, in their order; each sequence is cut to its slice's ``n_past`` first.
        Raises `EngineError` where there are not enough, and changes nothing but the cut then."""
        for part in slices:
            self.cut(part.seq, part.n_past)
        n_new = sum(len(part.token_ids) for part in slices)
        new = self._free(n_new)
        begin = 0
        for part in slices:
            own = new[begin : begin + len(part.token_ids)]
            self._held[part.seq] = np.concatenate((self._held[part.seq], own))
            begin += len(part.token_ids)
        self._users[new] = 1
        return new

    def _free(self, n: int) -> Cells:
        top = self._top() + n  # so many cells hold enough free ones, if all of the cache does
        free = np.flatnonzero(self._users[:top] == 0)[:n]
        if len(free) < n:
            raise EngineError(f"no free KV cells ({self.n_used} of {self.n_cells} held)")
        return free

    def _top(self) -> int:
        """The number of cells up to the last one in use."""
        return max((int(held.max()) + 1 for held in self._held if held.size), default=0)

    def cut(self, seq: int, n_tokens: int) -> None:
        held = self._held[seq]
        if len(held) > n_tokens:
            self._users[held[n_tokens:]] -= 1
            self._held[seq] = held[:n_tokens]

    def fork(self, source: int, target: int, n_tokens: int) -> None:
        """``target``, which holds nothing, gets the first cells of ``source``."""
        shared = self._held[source][:n_tokens]
        self._users[shared] += 1
        self._held[target] = shared

    def mask(self, slices: Sequence[Slice], window: int = 0) -> Mask:
        """Which cell each token of the slices sees, after they were placed: 0 where it does, -inf where not, shape
        ``(n_tokens, n_kv)``; the cells after ``n_kv`` nobody sees. ``window``: tokens that see so many positions only,
        their own among them (0: all)."""
        n_kv = max(int(self._held[part.seq].max()) + 1 for part in slices)
        mask = np.full((sum(len(part.token_ids) for part in slices), n_kv), -np.inf, np.float16)
        begin = 0
        for part in slices:
            n, held = len(part.token_ids), self._held[part.seq]
            first = max(0, part.n_past + 1 - window) if window else 0
            rows = mask[begin : begin + n]
            rows[:, held[first : part.n_past + 1]] = 0
            if n > 1:
                _staircase(rows, held, part.n_past, first, window)
            begin += n
        return mask


def _staircase(rows: Mask, held: Cells, n_past: int, first: int, window: int) -> None:
    """Each token after the first sees those of its own slice before it, and loses those that left its window."""
    n = len(rows)
    new = held[n_past : n_past + n]
    rows[:, new] = np.where(np.tri(n, dtype=np.bool_), np.float16(0), np.float16(-np.inf))
    if window:
        distance = np.arange(n_past, n_past + n)[:, None] - np.arange(first, n_past + n)[None, :]
        lost_rows, lost_cells = np.nonzero(distance >= window)
        rows[lost_rows, held[first + lost_cells]] = -np.inf
