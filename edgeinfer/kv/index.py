"""Which of the known entries begins as a prompt does. Knows tokens and names, no files.

Entries lie in the order of their tokens. Whatever shares most with a prompt then lies next to where the prompt would
be, so two comparisons after a bisection find it, exactly to the token and without hashes that could collide. That all
tokens are in memory costs little: a state takes thousands of times the bytes of its tokens, and states are capped.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from edgeinfer.kv.prefix import common_prefix

__all__ = ["Index", "Known"]


@dataclass(frozen=True, slots=True)
class Known:
    """An entry: its file, its tokens (int32 as bytes) and the size of its state."""

    name: str
    tokens: bytes
    state_bytes: int

    @property
    def n_tokens(self) -> int:
        return len(self.tokens) // 4


class Index:
    """The entries of one fingerprint, each with tokens that no other has. Not thread-safe."""

    def __init__(self) -> None:
        self._order: list[bytes] = []
        self._by_tokens: dict[bytes, Known] = {}
        self._by_name: dict[str, Known] = {}

    @property
    def names(self) -> Collection[str]:
        return self._by_name.keys()

    def add(self, known: Known) -> None:
        if known.tokens not in self._by_tokens:
            bisect.insort(self._order, known.tokens)
        self._by_tokens[known.tokens] = self._by_name[known.name] = known

    def discard(self, name: str) -> None:
        known = self._by_name.pop(name, None)
        if known is not None:
            del self._by_tokens[known.tokens]
            del self._order[bisect.bisect_left(self._order, known.tokens)]

    def longest(self, tokens: bytes) -> tuple[Known, int] | None:
        """The entry with the most leading tokens in common, and how many those are; of equals the one that is
        quickest read. None where not even the first token is known."""
        at = bisect.bisect_left(self._order, tokens)
        n_common = max((_n_common(near, tokens) for near in self._order[max(0, at - 1) : at + 1]), default=0)
        if not n_common:
            return None
        equals = self._beginning_with(tokens[: 4 * n_common])
        return min(equals, key=lambda known: (known.state_bytes, len(known.tokens))), n_common

    def longest_whole(self, tokens: bytes) -> tuple[Known, int] | None:
        """The longest entry that ``tokens`` begin with, and its length."""
        known = self._longest_whole(tokens)
        return (known, known.n_tokens) if known else None

    def _longest_whole(self, tokens: bytes) -> Known | None:
        while True:
            at = bisect.bisect_right(self._order, tokens)
            if not at:
                return None
            below = self._order[at - 1]
            if tokens.startswith(below):
                return self._by_tokens[below]
            # What `tokens` begin with also lies below, but shares no more with them than the last one below does.
            tokens = tokens[: 4 * _n_common(below, tokens)]

    def whole(self, tokens: bytes) -> list[Known]:
        """All shorter entries that ``tokens`` begin with."""
        found = []
        known = self._longest_whole(tokens[:-4])
        while known is not None:
            found.append(known)
            known = self._longest_whole(known.tokens[:-4])
        return found

    def extension(self, tokens: bytes) -> Known | None:
        """An entry that begins with all of ``tokens``: the very same where there is one, else some longer one."""
        return next(self._beginning_with(tokens), None)

    def _beginning_with(self, tokens: bytes) -> Iterator[Known]:
        for at in range(bisect.bisect_left(self._order, tokens), len(self._order)):
            if not self._order[at].startswith(tokens):
                return
            yield self._by_tokens[self._order[at]]


def _n_common(a: bytes, b: bytes) -> int:
    return common_prefix(np.frombuffer(a, "<i4"), np.frombuffer(b, "<i4"))
