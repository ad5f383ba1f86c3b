"""How many KV cells the sequences take together, counting a forked prefix once. Knows lengths and forks, no engine.

Cells are made in runs: a sequence writes its own run from some position on, and a fork goes on from another's run. A
position is in memory once for each run that still holds it, so a run takes what the longest of its users has of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

__all__ = ["Ledger"]

_Runs = list[tuple[int, int]]
"""(run, the position it begins at), in order of position; each ends where the next begins."""


class Ledger:
    """Which runs each sequence consists of."""

    def __init__(self) -> None:
        self._runs: dict[int, _Runs] = {}
        self._numbers = itertools.count()

    def begin(self, seq: int, n_tokens: int = 0) -> None:
        """The sequence goes on after its first ``n_tokens`` with cells that are new: after a cut others may still hold
        what it held there."""
        kept = [run for run in self._of(seq) if run[1] < n_tokens]
        self._runs[seq] = [*kept, (next(self._numbers), n_tokens)]

    def fork(self, source: int, target: int, n_tokens: int) -> None:
        """``target`` begins with the first ``n_tokens`` of ``source``."""
        self._runs[target] = list(self._of(source))
        self.begin(target, n_tokens)

    def count(self, lengths: Mapping[int, int]) -> int:
        """Cells in use, where the sequences are so long."""
        ends: dict[int, tuple[int, int]] = {}
        for seq, length in lengths.items():
            runs = self._of(seq)
            for (run, begin), end in zip(runs, [*(begin for _, begin in runs[1:]), length], strict=True):
                end = min(end, length)
                if end > ends.get(run, (begin, begin))[1]:
                    ends[run] = begin, end
        return sum(end - begin for begin, end in ends.values())

    def _of(self, seq: int) -> _Runs:
        """A sequence that has never been begun is a run of its own."""
        return self._runs.get(seq) or [(-1 - seq, 0)]
