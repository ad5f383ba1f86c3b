"""The engine's sequences: who holds one, and what the idle ones still remember.

A finished request's sequence is kept, with the tokens it holds, until its place is needed: the next turn of the same
conversation, or another request with the same beginning, computes only what is new. Knows nothing of requests, only
of token ids."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeinfer.engines.base import Engine

__all__ = ["Lease", "SequencePool", "common_prefix"]

TokenIds = npt.NDArray[np.int32]
_NOTHING: TokenIds = np.empty(0, np.int32)


def common_prefix(a: TokenIds, b: TokenIds) -> int:
    """How many leading tokens are the same."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


@dataclass(slots=True)
class Lease:
    """A sequence in use: ``n_reused`` of the tokens asked for are in it already. ``n_reserved`` cells are set aside
    for it."""

    seq: int
    n_reused: int
    n_reserved: int
    prompt: TokenIds = field(repr=False)


@dataclass(slots=True)
class _Kept:
    """A sequence that nobody uses: the tokens in it, and when it was last of use."""

    tokens: TokenIds = field(default_factory=lambda: _NOTHING, repr=False)
    used: int = 0


class SequencePool:
    """Hands out the engine's sequences and takes them back. Called from the engine's thread only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._idle = {seq: _Kept() for seq in range(engine.n_seq_max)}
        self._leases: dict[int, Lease] = {}
        self._clock = 0

    @property
    def n_idle(self) -> int:
        return len(self._idle)

    def acquire(self, prompt: TokenIds, n_reserved: int) -> Lease | None:
        """A sequence that holds as much of ``prompt`` as is known (all but its last token at most, so that there is
        something to compute logits from), with ``n_reserved`` cells set aside; None when none is free now."""
        if not self._idle:
            return None
        lent = sum(lease.n_reserved for lease in self._leases.values())
        if lent + n_reserved > self._engine.n_cells and self._leases:
            return None
        seq, source, n_shared = self._best_match(prompt)
        kept = self._idle.pop(seq)
        if source == seq:
            n_reused = n_shared if len(kept.tokens) == n_shared else self._engine.truncate(seq, n_shared)
        else:
            n_reused = self._engine.fork(source, seq, n_shared) if n_shared else self._cleared(seq)
        self._make_room(lent + n_reserved)
        lease = Lease(seq, n_reused, n_reserved, prompt)
        self._leases[seq] = lease
        return lease

    def give_back(self, lease: Lease, tokens: TokenIds) -> None:
        """End a lease; ``tokens`` are what its sequence should hold, and it is cut to what it does hold of them."""
        del self._leases[lease.seq]
        self._clock += 1
        held = min(self._engine.length(lease.seq), len(tokens))
        self._idle[lease.seq] = _Kept(tokens[:held].copy(), self._clock)

    def forget(self) -> None:
        """Drop everything that idle sequences remember."""
        for seq in self._idle:
            self._engine.release(seq)
            self._idle[seq] = _Kept()

    def _cleared(self, seq: int) -> int:
        self._engine.release(seq)
        return 0

    def _best_match(self, prompt: TokenIds) -> tuple[int, int, int]:
        """(idle sequence to use, sequence to take the prefix from, its length).

        An idle sequence is continued in place when the prompt extends most of it, and forked when that would lose
        more than it saves and another place is free. Prefixes of running requests are forked."""
        known = {seq: kept.tokens for seq, kept in self._idle.items()}
        known.update({seq: lease.prompt[: self._engine.length(seq)] for seq, lease in self._leases.items()})
        shared = {seq: self._shareable(seq, tokens, prompt) for seq, tokens in known.items()}
        source = max(shared, key=lambda seq: (shared[seq], seq in self._idle))
        n_shared = shared[source]
        oldest = min(self._idle, key=lambda seq: self._idle[seq].used)
        if source not in self._idle:
            return oldest, source, n_shared
        lost = len(self._idle[source].tokens) - n_shared
        empty = [seq for seq, kept in self._idle.items() if seq != source and not len(kept.tokens)]
        if n_shared and (not empty or lost <= n_shared):
            return source, source, n_shared
        return (empty[0] if empty else oldest), source, n_shared

    def _shareable(self, seq: int, tokens: TokenIds, prompt: TokenIds) -> int:
        """How much of a common prefix can be taken over without rounding anything otherwise: all of an idle sequence
        that is continued, else whole blocks. At least one token is left to compute."""
        n_common = common_prefix(tokens, prompt[:-1])
        if n_common == len(tokens) and seq in self._idle:
            return n_common
        return n_common // self._engine.block_size * self._engine.block_size

    def _make_room(self, n_needed: int) -> None:
        """Forget idle sequences, least recently useful first, until ``n_needed`` cells and what is kept fit
        together."""
        by_age = sorted(self._idle, key=lambda seq: self._idle[seq].used)
        n_kept = sum(len(kept.tokens) for kept in self._idle.values())
        for seq in by_age:
            if n_needed + n_kept <= self._engine.n_cells:
                return
            n_kept -= len(self._idle[seq].tokens)
            self._engine.release(seq)
            self._idle[seq] = _Kept()
