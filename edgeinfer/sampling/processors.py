"""Processors: what changes logits before a token is chosen. Plain callables ``(history, logits) -> logits``.

``history`` is int32, the tokens of prompt and answer so far. ``logits`` is the sampler's own working copy, float32
``(n_vocab,)``: a processor changes it in place and returns it. Order and formulas are llama.cpp's: bias, then
repetition, then frequency and presence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt

from edgeinfer.core import SamplingParams
from edgeinfer.errors import UsageError

History = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Processor = Callable[[History, Floats], Floats]

_LIMIT = 1e30  # a changed logit stays this small, far from float32's end, so that no setting can make an infinity


def processors_for(params: SamplingParams, n_vocab: int, eos_ids: Collection[int]) -> tuple[Processor, ...]:
    """The processors that these settings need, in order; none for neutral settings. Raises `UsageError` for a biased
    token id outside the vocabulary."""
    chain: list[Processor] = []
    if params.logit_bias:
        outside = [i for i in params.logit_bias if not 0 <= i < n_vocab]
        if outside:
            raise UsageError(f"logit_bias names token {outside[0]}, but the vocabulary has ids 0 to {n_vocab - 1}")
        chain.append(bias(dict(params.logit_bias)))
    penalized = params.repeat_penalty != 1 or params.frequency_penalty or params.presence_penalty
    if penalized and params.penalty_last_n:
        chain.append(penalties(params))
    if params.ignore_eos and eos_ids:
        chain.append(forbid(eos_ids))
    return tuple(chain)


def bias(biases: dict[int, float]) -> Processor:
    """Add a constant to the logits of some tokens."""
    ids = np.fromiter(biases.keys(), np.intp, len(biases))
    amounts = np.fromiter(biases.values(), np.float64, len(biases))

    def apply(_history: History, logits: Floats) -> Floats:
        return _put(logits, ids, logits[ids] + amounts)

    return apply


def penalties(params: SamplingParams) -> Processor:
    """Make the last ``penalty_last_n`` tokens of prompt and answer less likely.

    Repetition (Keskar et al., 2019, https://arxiv.org/abs/1909.05858) divides a positive logit and multiplies a
    negative one; then frequency is subtracted once for each occurrence, and presence once for having occurred.
    """
    repeat, frequency, presence = params.repeat_penalty, params.frequency_penalty, params.presence_penalty
    last_n = params.penalty_last_n

    def apply(history: History, logits: Floats) -> Floats:
        ids, counts = _counted(history if last_n < 0 else history[-last_n:])
        values = np.maximum(logits[ids], -_LIMIT).astype(np.float64)
        values = np.where(values > 0, values / repeat, values * repeat)
        return _put(logits, ids, values - (counts * frequency + presence))

    return apply


def forbid(token_ids: Collection[int]) -> Processor:
    """Make some tokens impossible."""
    ids = np.fromiter(token_ids, np.intp, len(token_ids))

    def apply(_history: History, logits: Floats) -> Floats:
        logits[ids] = -np.inf
        return logits

    return apply


def _counted(tokens: History) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The distinct tokens, ascending, and how often each occurs. Sorting wins for the usual 64, counting for a long
    history."""
    if tokens.size <= 1024:
        distinct, counts = np.unique(tokens, return_counts=True)
        return distinct.astype(np.intp), counts
    all_counts = np.bincount(tokens)
    ids = np.flatnonzero(all_counts)
    return ids, all_counts[ids]


def _put(logits: Floats, ids: npt.NDArray[np.integer], values: npt.NDArray[np.float64]) -> Floats:
    """Store changed logits, bounded; what was impossible stays impossible."""
    logits[ids] = np.where(np.isneginf(logits[ids]), -np.inf, np.clip(values, -_LIMIT, _LIMIT))
    return logits
