"""A model that drafts for another: any engine, with its own KV kept in step with the target's text.

It holds for each request the tokens that it has read, its own guesses among them; what the target did not choose is cut
off again at the next question. Knows nothing of costs: it is asked for one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeinfer.engines.base import Engine, ForwardCancelled, Slice
from edgeinfer.errors import EngineError
from edgeinfer.kv import Lease, SequencePool, common_prefix
from edgeinfer.sampling import samplers
from edgeinfer.speculate.base import Draft, TokenIds, Want
from edgeinfer.speculate.vocabulary import VocabularyMap

__all__ = ["ModelDrafter"]

_N_CANDIDATES = 32  # of the draft's tokens, the best that a choice is made from
_NOTHING: TokenIds = np.empty(0, np.int32)


@dataclass(slots=True)
class _Track:
    """One request's text as the draft model has it: ``tokens`` are the target's ids; ``ends[i]`` of the engine's tokens
    cover the first i + 1 of them."""

    lease: Lease
    tokens: TokenIds = field(default_factory=lambda: _NOTHING)
    ends: list[int] = field(default_factory=list)

    @property
    def n_computed(self) -> int:
        return self.ends[-1] if self.ends else 0

    def cut(self, n_tokens: int) -> None:
        del self.ends[n_tokens:]
        self.tokens = self.tokens[:n_tokens]


@dataclass(slots=True)
class _Reading:
    """Tokens for a track to read: ``ids`` as the engine's, ``covered[i]`` of them for the first i + 1."""

    track: _Track
    tokens: TokenIds
    ids: TokenIds
    covered: npt.NDArray[np.intp]


class ModelDrafter:
    """Drafts with ``engine``, which it owns. ``vocabulary`` maps the target's ids to the ids that the engine reads;
    ``heads`` gives the engine's own id of each row of its logits where it has fewer rows than it reads ids (None: row i
    is id i)."""

    def __init__(self, engine: Engine, vocabulary: VocabularyMap, heads: TokenIds | None = None) -> None:
        self._engine = engine
        self._pool = SequencePool(engine)
        self._vocabulary = vocabulary
        rows = np.arange(engine.n_vocab, dtype=np.int32) if heads is None else heads
        self._targets = vocabulary.drafts(rows)
        self._tracks: dict[int, _Track] = {}
        self._met: dict[int, int] = {}  # of requests without a track: how much of their first text was in memory

    # ---- reading

    def behind(self, key: int, tokens: TokenIds) -> int:
        track = self._tracks.get(key)
        if track is not None:
            return max(1, len(tokens) - common_prefix(track.tokens, tokens))
        if key not in self._met:  # looked up once: the next turn of a conversation is not read from its beginning
            ids, ends = self._spelled(tokens)
            self._met[key] = int(np.searchsorted(ends, self._pool.known(ids), side="right"))
        return max(1, len(tokens) - self._met[key])

    def _spelled(self, tokens: TokenIds) -> tuple[TokenIds, npt.NDArray[np.intp]]:
        """The engine's ids for the target's, and how many of them cover each token and all before it."""
        spelled = [self._vocabulary.spell(token) for token in tokens.tolist()]
        ends = np.cumsum([len(own) for own in spelled], dtype=np.intp)
        return np.array([i for own in spelled for i in own], np.int32), ends

    def follow(self, key: int, tokens: TokenIds, n_max: int) -> None:
        """Read up to ``n_max`` tokens that it has not read, all but the last one. Raises `ForwardCancelled`,
        `EngineError`."""
        track = self._tracks.get(key) or self._begin(key, tokens)
        if track is None:
            return
        self._rewind(track, tokens)
        first = len(track.tokens)
        reading = self._reading(track, tokens[first : min(first + n_max, len(tokens) - 1)])
        if reading is not None:
            self._compute([reading], n_logits=0)

    def _begin(self, key: int, tokens: TokenIds) -> _Track | None:
        """A track for a request; None when no sequence is free."""
        ids, ends = self._spelled(tokens)
        lease = self._pool.acquire(ids, self._engine.n_ctx)
        if lease is None:
            return None
        track = self._tracks[key] = _Track(lease)
        # What an earlier request left, in whole tokens.
        n_whole = int(np.searchsorted(ends, lease.n_reused, side="right"))
        track.ends, track.tokens = ends[:n_whole].tolist(), tokens[:n_whole].copy()
        if track.n_computed < lease.n_reused:
            self._engine.truncate(lease.seq, track.n_computed)
        return track

    def _rewind(self, track: _Track, tokens: TokenIds) -> None:
        """Cut off what the target did not choose, and leave at least the last token to compute."""
        n_kept = min(common_prefix(track.tokens, tokens), len(tokens) - 1)
        if n_kept == len(track.tokens):
            return
        n_held = track.ends[n_kept - 1] if n_kept else 0
        track.cut(n_kept if self._engine.truncate(track.lease.seq, n_held) == n_held else 0)

    def _reading(self, track: _Track, tokens: TokenIds) -> _Reading | None:
        """None for nothing to read, or more than the context holds."""
        spelled = [self._vocabulary.spell(token) for token in tokens.tolist()]
        covered = np.cumsum([len(own) for own in spelled], dtype=np.intp)
        n_whole = int(np.searchsorted(covered, self._engine.n_batch, side="right"))
        if not n_whole or track.n_computed + covered[n_whole - 1] > self._engine.n_ctx:
            return None
        ids = np.array([i for own in spelled[:n_whole] for i in own], np.int32)
        return _Reading(track, tokens[:n_whole], ids, covered[:n_whole])

    def _compute(self, readings: Sequence[_Reading], n_logits: int) -> npt.NDArray[np.float32]:
        """Read in one pass; the logits of each track's last token."""
        slices = [Slice(part.track.lease.seq, part.ids, part.track.n_computed, n_logits) for part in readings]
        self._pool.make_room(sum(len(part.ids) for part in readings))
        try:
            rows = self._engine.forward(slices)
        except (ForwardCancelled, EngineError):
            for part in readings:  # a sequence may have lost tokens
                n_held = self._engine.length(part.track.lease.seq)
                part.track.cut(int(np.searchsorted(part.track.ends, n_held, side="right")))
                if part.track.n_computed != n_held:
                    self._engine.truncate(part.track.lease.seq, part.track.n_computed)
            raise
        for part in readings:
            part.track.ends += (part.covered + part.track.n_computed).tolist()
            part.track.tokens = np.concatenate([part.track.tokens, part.tokens])
        return rows

    # ---- guessing

    def guess(self, wants: Sequence[tuple[Want, TokenIds]]) -> list[tuple[int, float] | None]:
        """One more token of each draft; see `SteppedDrafter`."""
        answers: list[tuple[int, float] | None] = [None] * len(wants)
        readings, asked = [], []
        room = self._engine.n_batch
        for i, (want, chain) in enumerate(wants):
            reading = self._question(want, chain)
            if reading is not None and len(reading.ids) <= room:
                room -= len(reading.ids)
                readings.append(reading)
                asked.append(i)
        if readings:
            for i, row in zip(asked, self._compute(readings, n_logits=1), strict=True):
                answers[i] = self._chosen(row, wants[i][0], len(wants[i][1]))
        return answers

    def _question(self, want: Want, chain: TokenIds) -> _Reading | None:
        text = np.concatenate([want.tokens, chain])
        track = self._tracks.get(want.key) or self._begin(want.key, text)
        if track is None:
            return None
        self._rewind(track, text)
        rest = text[len(track.tokens) :]
        reading = self._reading(track, rest)
        return reading if reading is not None and len(reading.tokens) == len(rest) else None

    def _chosen(self, row: npt.NDArray[np.float32], want: Want, ahead: int) -> tuple[int, float] | None:
        best = samplers.top_k(row, _N_CANDIDATES)
        targets = self._targets[best]
        if not len(targets):
            return None
        position, chance = want.guess(targets, row[best], ahead)
        token_id = int(targets[position])
        return (token_id, chance) if token_id >= 0 else None

    def propose(self, key: int, tokens: TokenIds, k: int) -> Draft:
        """Up to ``k`` tokens, the likeliest at each step, whatever they cost."""
        want = Want(key, tokens, k, k, likeliest)
        ids: list[int] = []
        chances: list[float] = []
        while len(ids) < k and (found := self.guess([(want, np.array(ids, np.int32))])[0]) is not None:
            ids.append(found[0])
            chances.append(found[1])
        return Draft(np.array(ids, np.int32), np.array(chances, np.float32))

    # ---- requests come and go

    def end(self, key: int, tokens: TokenIds) -> None:
        track = self._tracks.pop(key, None)
        self._met.pop(key, None)
        if track is None:
            return
        n_kept = common_prefix(track.tokens, tokens)
        if n_kept < len(track.tokens):
            self._engine.truncate(track.lease.seq, track.ends[n_kept - 1] if n_kept else 0)
            track.cut(n_kept)
        self._pool.give_back(track.lease, self._spelled(track.tokens)[0])

    def forget(self) -> None:
        self._pool.forget()

    def interrupt(self, on: bool) -> None:
        self._engine.interrupt(on)

    def close(self) -> None:
        self._engine.close()


def likeliest(_targets: npt.NDArray[np.integer], logits: npt.NDArray[np.float32], _ahead: int) -> tuple[int, float]:
    """The best candidate, and its share of all of them."""
    return 0, float(1 / samplers.weigh(logits).sum(dtype=np.float64))
