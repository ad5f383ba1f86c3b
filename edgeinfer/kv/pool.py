"""The engine's sequences: who holds one, and what the idle ones still remember.

A finished request's sequence is kept, with the tokens it holds, until its place or its cells are needed: the next turn
of the same conversation, or another request with the same beginning, computes only what is new. What memory has lost
may still be on the shelf. Knows nothing of requests, only of token ids.

What is known is a handful of sequences (an engine has a few more than it computes at once), so a prompt is held against
each of them: comparing 4,000 ids takes some microseconds, a pass of the engine thousands. A tree would save nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeinfer.engines.base import Engine
from edgeinfer.errors import EngineError, FormatError
from edgeinfer.kv.cells import Ledger
from edgeinfer.kv.prefix import common_prefix
from edgeinfer.kv.shelf import Shelf

__all__ = ["Lease", "SequencePool", "common_prefix"]

TokenIds = npt.NDArray[np.int32]
_NOTHING: TokenIds = np.empty(0, np.int32)
_FEW = 16
"""So many tokens of an old answer are not worth a place of their own."""


@dataclass(slots=True)
class Lease:
    """A sequence in use: ``n_reused`` of the tokens asked for are in it already, ``n_restored`` of them read from disk.
    ``n_reserved`` cells are set aside for it."""

    seq: int
    n_reused: int
    n_reserved: int
    prompt: TokenIds = field(repr=False)
    n_restored: int = 0


@dataclass(slots=True)
class _Kept:
    """A sequence that nobody uses: the tokens in it, when it was last of use, and whether it may be worth saving."""

    tokens: TokenIds = field(default_factory=lambda: _NOTHING, repr=False)
    used: int = 0
    unsaved: bool = False


class SequencePool:
    """Hands out the engine's sequences, ``n_parallel`` at once (default: all that the engine has), and takes them back.
    What goes out of memory goes to the ``shelf``, if there is one. Called from the engine's thread only."""

    def __init__(self, engine: Engine, n_parallel: int | None = None, shelf: Shelf | None = None) -> None:
        self._engine = engine
        self._n_parallel = min(n_parallel or engine.n_seq_max, engine.n_seq_max)
        self._shelf = shelf
        self._idle = {seq: _Kept() for seq in range(engine.n_seq_max)}
        self._leases: dict[int, Lease] = {}
        self._ledger = Ledger()
        self._clock = 0

    @property
    def n_idle(self) -> int:
        return len(self._idle)

    @property
    def has_place(self) -> bool:
        """Whether one more request may be computed."""
        return bool(self._idle) and len(self._leases) < self._n_parallel

    # ---- lending

    def acquire(self, prompt: TokenIds, n_reserved: int) -> Lease | None:
        """A sequence that holds as much of ``prompt`` as is known (all but its last token at most, so that there is
        something to compute logits from), with ``n_reserved`` cells set aside: what is kept in them goes when they are
        needed, see `make_room`. None when there is no place now."""
        lent = sum(lease.n_reserved for lease in self._leases.values())
        if not self.has_place or (lent + n_reserved > self._engine.n_cells and self._leases):
            return None
        seq, source, n_shared = self._best_match(prompt)
        restored = self._restored(prompt, n_shared)
        if restored is not None:
            seq, n_reused = restored
        else:
            n_reused = self._continued(seq, n_shared) if seq == source else self._forked(source, seq, n_shared)
        del self._idle[seq]
        lease = Lease(seq, n_reused, n_reserved, prompt, n_reused if restored else 0)
        self._leases[seq] = lease
        return lease

    def known(self, prompt: TokenIds) -> int:
        """How much of ``prompt`` is in memory."""
        return max((self.shareable(seq, tokens, prompt) for seq, tokens in self._known().items()), default=0)

    def give_back(self, lease: Lease, tokens: TokenIds) -> None:
        """End a lease; its sequence is cut to ``tokens``, or they to what it does hold of them."""
        del self._leases[lease.seq]
        self._clock += 1
        held = min(self._engine.length(lease.seq), len(tokens))
        if self._engine.length(lease.seq) > held:
            held = self._engine.truncate(lease.seq, held)
        self._idle[lease.seq] = _Kept(tokens[:held].copy(), self._clock, unsaved=held > 0)

    def _known(self) -> dict[int, TokenIds]:
        known = {seq: kept.tokens for seq, kept in self._idle.items()}
        known.update({seq: lease.prompt[: self._engine.length(seq)] for seq, lease in self._leases.items()})
        return known

    def _best_match(self, prompt: TokenIds) -> tuple[int, int, int]:
        """(idle sequence to use, sequence to take the prefix from, its length)."""
        known = self._known()
        shared = {seq: self.shareable(seq, tokens, prompt) for seq, tokens in known.items()}
        source = max(shared, key=lambda seq: (shared[seq], seq in self._idle, -len(known[seq])))
        n_shared = shared[source]
        if source in self._idle and n_shared and self._in_place(source, n_shared):
            return source, source, n_shared
        return self._place(), source, n_shared

    def _in_place(self, source: int, n_shared: int) -> bool:
        """Whether an idle sequence is cut and continued, which loses what it holds beyond, or forked. A fork shares its
        cells, but takes a place: one that holds nothing, or what was of use longer ago."""
        n_lost, place = len(self._idle[source].tokens) - n_shared, self._place()
        if self._engine.n_seq_max == self._n_parallel:  # no more places than requests
            return n_lost <= n_shared or len(self._idle[place].tokens) > 0
        return n_lost <= _FEW or place == source

    def _place(self) -> int:
        """The idle sequence that is missed least: an empty one, or the least recently used."""
        return min(self._idle, key=lambda seq: (len(self._idle[seq].tokens) > 0, self._idle[seq].used))

    def shareable(self, seq: int, tokens: TokenIds, prompt: TokenIds) -> int:
        """How much of a common prefix can be taken over without rounding anything otherwise: all of an idle sequence
        that is continued, else whole blocks, or nothing where states cannot be cut. At least one token is left to
        compute."""
        n_common = common_prefix(tokens, prompt[:-1])
        return self._usable(n_common, len(tokens), continued=seq in self._idle)

    def _usable(self, n_common: int, n_held: int, *, continued: bool) -> int:
        if n_common == n_held and (continued or not self._engine.rewinds):
            return n_common
        return n_common // self._engine.block_size * self._engine.block_size if self._engine.rewinds else 0

    def _continued(self, seq: int, n_shared: int) -> int:
        if len(self._idle[seq].tokens) == n_shared:
            return n_shared
        self._save(seq)
        self._ledger.begin(seq, n_shared)
        return self._engine.truncate(seq, n_shared)

    def _forked(self, source: int, seq: int, n_shared: int) -> int:
        self._vacate(seq)
        if not n_shared:
            return 0
        if self._engine.rewinds:
            self._ledger.fork(source, seq, n_shared)
        if source in self._idle:
            self._clock += 1
            self._idle[source].used = self._clock
        return self._engine.fork(source, seq, n_shared)

    # ---- memory

    def make_room(self, n_new: int) -> None:
        """Let idle sequences go, least recently used first, until ``n_new`` more cells fit."""
        lengths = [self._engine.length(seq) for seq in (*self._idle, *self._leases)]
        if sum(lengths) + n_new <= self._engine.n_cells:
            return
        by_age = sorted((seq for seq in self._idle if len(self._idle[seq].tokens)), key=lambda s: self._idle[s].used)
        for seq in by_age:
            if self._n_held() + n_new <= self._engine.n_cells:
                return
            self._vacate(seq)

    def _n_held(self) -> int:
        return self._ledger.count({seq: self._engine.length(seq) for seq in (*self._idle, *self._leases)})

    def _vacate(self, seq: int) -> None:
        """Empty an idle sequence, after saving what it holds where that is worth it."""
        self._save(seq)
        self._engine.release(seq)
        self._ledger.begin(seq)
        self._idle[seq] = _Kept()

    def forget(self) -> None:
        """Drop everything that idle sequences remember, unsaved."""
        for seq, kept in self._idle.items():
            kept.unsaved = False
            self._vacate(seq)

    # ---- disk

    def _restored(self, prompt: TokenIds, n_shared: int) -> tuple[int, int] | None:
        """(sequence, its length) of a saved state that saves more than memory does; None where there is none."""
        shelf, engine = self._shelf, self._engine
        found = shelf.find(prompt[:-1], n_shared, engine.n_ctx) if shelf is not None else None
        if shelf is None or found is None:
            return None
        n_usable = self._usable(found.n_common, found.n_tokens, continued=True)
        running = self._ledger.count({seq: engine.length(seq) for seq in self._leases})
        if n_usable <= n_shared or running + found.n_tokens > engine.n_cells:
            return None
        seq = self._place()
        self._vacate(seq)
        self.make_room(found.n_tokens)
        with shelf.loading(found) as state:
            if state is None:
                return None
            try:
                engine.import_sequence(seq, state, found.n_tokens)
            except FormatError as error:
                shelf.refuse(found, error)
                return None
        return seq, engine.truncate(seq, n_usable) if n_usable < found.n_tokens else n_usable

    @property
    def restless(self) -> bool:
        """Whether something idle should be saved, and could be now."""
        shelf = self._shelf
        if shelf is None:
            return False
        return any(self._worth_saving(kept, shelf) and shelf.has_room(kept.tokens) for kept in self._idle.values())

    @staticmethod
    def _worth_saving(kept: _Kept, shelf: Shelf) -> bool:
        if kept.unsaved and shelf.identified:
            kept.unsaved = shelf.wants(kept.tokens)
        return kept.unsaved

    def save_one(self) -> None:
        """Save the unsaved idle sequence that was used last, if there is one."""
        unsaved = [seq for seq, kept in self._idle.items() if kept.unsaved]
        if unsaved:
            self._save(max(unsaved, key=lambda seq: self._idle[seq].used))

    def save_all(self) -> None:
        """Save what is idle before the engine closes; waits for the shelf, as long as that lets itself be waited
        for."""
        for seq in sorted(self._idle, key=lambda seq: -self._idle[seq].used):
            self._save(seq, wait=True)

    def _save(self, seq: int, *, wait: bool = False) -> None:
        """Hand a copy of an idle sequence to the shelf, if it wants it and has room."""
        kept, shelf = self._idle[seq], self._shelf
        if shelf is None or not kept.unsaved or not shelf.has_room(kept.tokens, wait=wait):
            return
        if not self._worth_saving(kept, shelf):
            return
        kept.unsaved = False
        try:
            shelf.keep(kept.tokens, self._engine.export_sequence(seq))
        except (EngineError, MemoryError) as error:
            shelf.say(f"a state was not kept: {error or 'there is no memory for a copy'}")
