"""Scripted requests and drafters, for tests of whatever drafts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgeinfer.core import FinishReason, GenerationStats, SamplingParams
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.errors import EdgeInferError
from edgeinfer.request import Request
from edgeinfer.sampling import Constraint, Sampled, Sampler
from edgeinfer.scheduler import Scheduler
from edgeinfer.speculate import CostCurve, Draft
from edgeinfer.speculate.costs import ROWS

N_VOCAB = 64
EOS = 0

FLAT = CostCurve((32, 512), ((10.0,) * len(ROWS), (10.0,) * len(ROWS)), 0.1)
"""Passes of any size cost the same: drafting always pays."""
STEEP = CostCurve((32, 512), (tuple(10.0 * n for n in ROWS), tuple(10.0 * n for n in ROWS)), 10.0)
"""Each token costs as much as the first: drafting never pays."""
CHEAP = CostCurve((32, 512), ((0.5,) * len(ROWS), (0.5,) * len(ROWS)), 0.01)
"""A draft model that costs a twentieth."""


def next_token(tokens: Sequence[int]) -> int:
    """A hash of all that came before: any mix-up of sequences or positions changes the answer. Never EOS."""
    value = 7
    for token in tokens:
        value = (value * 31 + token) % 65521
    return 1 + value % (N_VOCAB - 1)


def expected(prompt: Sequence[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def often_right(share: float, seed: int = 0) -> Callable[[Sequence[int]], int]:
    """What a draft model of some merit would say: the target's choice in ``share`` of the places, by a hash of them."""

    def script(tokens: Sequence[int]) -> int:
        right = (hash((seed, *tokens)) % 1000) / 1000 < share
        return next_token(tokens) if right else 1 + (next_token(tokens) + 5) % (N_VOCAB - 1)

    return script


class Oracle:
    """A drafter for nothing that is right in ``share`` of the places, and as sure of itself as it is told to be."""

    def __init__(
        self, share: float = 1.0, chance: float = 0.9, script: Callable[[Sequence[int]], int] | None = None
    ) -> None:
        self._script = script or often_right(share)
        self._chance = chance
        self.ended: list[int] = []
        self.last_tokens: npt.NDArray[np.int32] | None = None

    def propose(self, _key: int, tokens: npt.NDArray[np.int32], k: int) -> Draft:
        known = tokens.tolist()
        for _ in range(k):
            known.append(self._script(known))
        ids = np.array(known[len(tokens) :], np.int32)
        return Draft(ids, np.full(len(ids), self._chance, np.float32))

    def end(self, key: int, tokens: npt.NDArray[np.int32]) -> None:
        self.ended.append(key)
        self.last_tokens = tokens

    def forget(self) -> None:
        pass


class Heard:
    """A sink that keeps what it hears, and can stop the answer at a token."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.ids: list[int] = []
        self.sampled: list[Sampled] = []
        self.reason: FinishReason | None = None
        self.stats = GenerationStats()
        self.error: EdgeInferError | None = None
        self.n_ends = 0
        self._stop_at = stop_at

    def token(self, sampled: Sampled) -> bool:
        self.ids.append(sampled.token_id)
        self.sampled.append(sampled)
        return sampled.token_id == self._stop_at

    def done(self, reason: FinishReason, stats: GenerationStats) -> None:
        self.reason, self.stats = reason, stats
        self.n_ends += 1

    def failed(self, error: EdgeInferError) -> None:
        self.error = error
        self.n_ends += 1


def engine(**settings: int | float) -> ScriptedEngine:
    return ScriptedEngine(next_token, n_vocab=N_VOCAB, **{"n_ctx": 512, **settings})  # type: ignore[arg-type]


def request(
    prompt: Sequence[int],
    n: int | None,
    sink: Heard,
    *,
    n_ctx: int = 512,
    constraint: Constraint | None = None,
    **params: object,
) -> Request:
    ids = np.array(prompt, np.int32)
    sampling = SamplingParams(**{"temperature": 0.0, **params})  # type: ignore[arg-type]
    sampler = Sampler(sampling, N_VOCAB, ids, constraint=constraint)
    return Request(ids, sampler, sink, n_ctx=n_ctx, max_tokens=n, eog_ids=[EOS])


def run(scheduler: Scheduler, limit: int = 10_000) -> int:
    for n_steps in range(limit):
        if scheduler.idle:
            return n_steps
        scheduler.step()
    raise AssertionError("the scheduler never came to rest")
