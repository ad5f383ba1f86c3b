"""What a model says by itself, always its likeliest token, and where two models part.

A parting is excused where the reference was of two minds: rounding decides between logits that are nearly equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.core import GenerationStats, SamplingParams
from edgeinfer.errors import EdgeInferError
from edgeinfer.opening import Opened
from edgeinfer.request import Request
from edgeinfer.sampling import Sampled, Sampler
from edgeinfer.scheduler import Scheduler
from edgeinfer.verify.forced import Told

__all__ = ["Divergence", "GreedyText", "first_divergence", "greedy_texts"]

_N_TOP = 20  # of the alternatives to each token, for the gap to what the other model chose


@dataclass(frozen=True, slots=True)
class GreedyText:
    """The tokens that a model chose one after another, the one that ended the text included."""

    chosen: tuple[Sampled, ...]

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(one.token_id for one in self.chosen)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two texts part: after ``token`` common tokens. ``id_a``, ``id_b``: what each chose
    there. ``gap_a``: how much more the reference's logit was of its own choice than of the other's, ``gap_b`` the
    reverse on the other side; of a choice that was not among its 20 best, the least that it can be."""

    token: int
    id_a: int
    id_b: int
    gap_a: float
    gap_b: float


class _Collector:
    """A request's sink that keeps the choices; a token of ``eog_ids`` is kept and ends the text."""

    def __init__(self, eog_ids: frozenset[int]) -> None:
        self._eog_ids = eog_ids
        self.chosen: list[Sampled] = []
        self.over = False

    def token(self, sampled: Sampled) -> bool:
        self.chosen.append(sampled)
        return sampled.token_id in self._eog_ids

    def done(self, _reason: object, _stats: GenerationStats) -> None:
        self.over = True

    def failed(self, error: EdgeInferError) -> None:
        raise error


def greedy_texts(
    model: Opened,
    prompts: Sequence[npt.NDArray[np.int32]],
    n_tokens: int,
    told: Told = lambda _done, _total: None,
) -> list[GreedyText]:
    """Continue each prompt by ``n_tokens``, or until the model ends it. Through the scheduler, as any answer. Raises
    `ContextOverflow` for a prompt that does not fit, and what the engine raises."""
    engine, eog_ids = model.engine, model.tokenizer.eog_ids
    scheduler = Scheduler(engine, n_parallel=model.n_parallel)
    params = SamplingParams(temperature=0.0, logprobs=min(_N_TOP, engine.n_vocab))
    sinks = [_Collector(eog_ids) for _ in prompts]
    for ids, sink in zip(prompts, sinks, strict=True):
        sampler = Sampler(params, engine.n_vocab, ids)
        scheduler.submit(Request(ids, sampler, sink, n_ctx=engine.n_ctx, max_tokens=n_tokens))
    while not scheduler.idle:
        scheduler.step()
        n_done = sum(n_tokens if sink.over else len(sink.chosen) for sink in sinks)
        told(n_done, n_tokens * len(prompts))
    return [GreedyText(tuple(sink.chosen)) for sink in sinks]


def first_divergence(a: GreedyText, b: GreedyText) -> Divergence | None:
    """Where two continuations of one prompt part; None where they are the same."""
    both = zip(a.chosen, b.chosen, strict=False)
    at = next((i for i, (x, y) in enumerate(both) if x.token_id != y.token_id), None)
    if at is None:  # an end is a token too, so neither is the other's beginning
        return None
    x, y = a.chosen[at], b.chosen[at]
    return Divergence(at, x.token_id, y.token_id, _gap(x, y.token_id), _gap(y, x.token_id))


def _gap(chosen: Sampled, other: int) -> float:
    """How much larger the chosen token's logit was than another's."""
    logprobs = {choice.token_id: choice.logprob for choice in chosen.top}
    best = chosen.top[0].logprob
    return best - logprobs.get(other, chosen.top[-1].logprob)
