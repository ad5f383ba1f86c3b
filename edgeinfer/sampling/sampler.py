"""One request's sampler: it holds the request's history, random state and constraint, and chooses its next token.

The chain is llama.cpp's: bias and penalties -> grammar -> top-k -> typical -> top-p -> min-p -> temperature -> draw.
Temperature 0 is greedy and skips what follows the grammar. It knows token ids and logits only, and nothing of the
requests beside it: the same settings, seed, history and logits give the same token.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.core import Choice, SamplingParams
from edgeinfer.errors import EngineError, NumericError, UsageError
from edgeinfer.sampling import samplers
from edgeinfer.sampling.processors import processors_for
from edgeinfer.sampling.samplers import Floats, Positions, Weights


class Constraint(Protocol):
    """What an answer must match, and how far it has got. One for each request."""

    @property
    def finished(self) -> bool:
        """True when nothing but the end can follow."""
        ...

    def mask(self, logits: Floats) -> None:
        """Set the logits of tokens that cannot come next to -inf, in place."""
        ...

    def accept(self, token_id: int) -> None:
        """Advance by a token that `mask` allows."""
        ...

    def fits(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens, one after another, could be accepted. Changes nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token. ``logprob`` and ``top`` (best first) are filled when the request asked for log-probabilities."""

    token_id: int
    logprob: float | None = None
    top: tuple[Choice, ...] = ()


class Sampler:
    """Chooses the tokens of one request. Not thread-safe; made and used by whoever runs the request.

    ``prompt_ids`` start the history that penalties look at. ``eos_ids`` are forbidden when ``params.ignore_eos`` is
    set. ``seed`` is the seed in use: the one asked for, or a fresh 32-bit one. Raises `UsageError` for token ids
    outside the vocabulary.
    """

    def __init__(
        self,
        params: SamplingParams,
        n_vocab: int,
        prompt_ids: Sequence[int] | npt.NDArray[np.integer],
        *,
        constraint: Constraint | None = None,
        eos_ids: Collection[int] = (),
    ) -> None:
        prompt = np.asarray(prompt_ids, np.int64)
        for name, ids in (("prompt", prompt), ("eos_ids", np.asarray(list(eos_ids), np.int64))):
            if ids.size and not (ids.min() >= 0 and ids.max() < n_vocab):
                wrong = int(ids[(ids < 0) | (ids >= n_vocab)][0])
                raise UsageError(f"{name} has token {wrong}, but the vocabulary has ids 0 to {n_vocab - 1}")
        self.params = params
        self.n_vocab = n_vocab
        self.seed = secrets.randbits(32) if params.seed is None else params.seed
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._ahead: deque[float] = deque()  # draws that a drafter has looked at and `sample` has not used yet
        self._processors = processors_for(params, n_vocab, eos_ids)
        self._constraint = constraint
        self._history: npt.NDArray[np.int32] = np.empty(prompt.size + 256, np.int32)
        self._history[: prompt.size] = prompt
        self._n_history = prompt.size
        self._work: Floats | None = None  # the row being processed; made once, when first needed

    @property
    def finished(self) -> bool:
        """True when the constraint admits nothing but the end. False without a constraint."""
        return self._constraint is not None and self._constraint.finished

    def sample(self, logits: Floats) -> Sampled:
        """Choose a token from a row of float32 logits ``(n_vocab,)``, which is not modified.

        Changes only the random state, by one draw (none when greedy), and the choice counts once it is given to
        `accept`. Raises `NumericError` when the logits are not numbers, `EngineError` when the settings and the grammar
        leave no token.
        """
        row = self._processed(logits)
        if self.params.temperature == 0:
            token_id = samplers.greedy(row)
            if not math.isfinite(row[token_id]):
                self._refuse(row)
        else:
            ids, weights = self._candidates(row)
            position = samplers.draw(weights, self._ahead.popleft() if self._ahead else self._random.random())
            token_id = position if ids is None else int(ids[position])
        if self.params.logprobs is None:
            return Sampled(token_id)
        return self._with_logprobs(row, token_id, self.params.logprobs)

    def guess(self, ids: npt.NDArray[np.integer], logits: Floats, ahead: int) -> tuple[int, float]:
        """What `sample` would take ``ahead`` calls from now if these, best first, were all candidates: (position in
        ``ids``, how likely it is among them). It looks at the very draw that `sample` will use there, so that a drafter
        who knows the distribution well guesses well at any temperature, and what is sampled does not depend on who
        guesses (coupling by common randomness: Daliri, Musco and Suresh, 2025, https://arxiv.org/abs/2408.07978).
        Penalties, bias and grammar are left out: a guess may be wrong."""
        if self.params.temperature == 0:
            return 0, float(1 / samplers.weigh(logits).sum(dtype=np.float64))
        while len(self._ahead) <= ahead:
            self._ahead.append(self._random.random())
        order = None if 0 < self.params.top_k < self.n_vocab else np.argsort(ids, kind="stable")
        kept, weights = self._candidates(logits if order is None else logits[order])
        position = samplers.draw(weights, self._ahead[ahead])
        chance = float(weights[position] / weights.sum(dtype=np.float64))
        position = position if kept is None else int(kept[position])
        return (position if order is None else int(order[position])), chance

    def fits(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens of a draft the constraint admits; all without one."""
        return len(token_ids) if self._constraint is None else self._constraint.fits(token_ids)

    def accept(self, token_id: int) -> None:
        """Make the token part of the answer: append it to the history and advance the constraint."""
        if not 0 <= token_id < self.n_vocab:
            raise UsageError(f"token {token_id} is accepted, but the vocabulary has ids 0 to {self.n_vocab - 1}")
        if self._constraint is not None:
            self._constraint.accept(token_id)
        if self._n_history == self._history.size:
            self._history = np.concatenate([self._history, np.empty(self._n_history, np.int32)])
        self._history[self._n_history] = token_id
        self._n_history += 1

    def distribution(self, logits: Floats) -> npt.NDArray[np.float64]:
        """The probabilities, float64 ``(n_vocab,)``, that `sample` draws from here: one-hot when greedy. Changes no
        state. Raises as `sample`."""
        row = self._processed(logits)
        chances = np.zeros(self.n_vocab, np.float64)
        if self.params.temperature == 0:
            token_id = samplers.greedy(row)
            if not math.isfinite(row[token_id]):
                self._refuse(row)
            chances[token_id] = 1.0
            return chances
        ids, weights = self._candidates(row)
        chances[slice(None) if ids is None else ids] = weights / weights.sum(dtype=np.float64)
        return chances

    def _processed(self, logits: Floats) -> Floats:
        """The row after processors and constraint: the caller's own where there is nothing to do, else our working
        copy."""
        if logits.shape != (self.n_vocab,) or logits.dtype != np.float32:
            raise UsageError(f"logits are {logits.dtype} {logits.shape}, but must be float32 ({self.n_vocab},)")
        if not self._processors and self._constraint is None:
            return logits
        if not math.isfinite(logits.max()):  # before a mask can hide it; the maximum of a row with a NaN is NaN
            self._refuse(logits)
        if self._work is None:
            self._work = np.empty(self.n_vocab, np.float32)
        row = self._work
        np.copyto(row, logits)
        history = self._history[: self._n_history]
        for process in self._processors:
            row = process(history, row)
        if self._constraint is not None:
            self._constraint.mask(row)
        if row.max() == -np.inf:
            raise EngineError(
                "no token can follow: the grammar and the settings (ignore_eos, logit_bias) together forbid every one"
            )
        return row

    def _candidates(self, row: Floats) -> tuple[Positions | None, Weights]:
        """The tokens left by the truncations (None: every id in order) and their weights at the request's
        temperature."""
        if not math.isfinite(row.max()):
            self._refuse(row)
        params = self.params
        ids: Positions | None = None
        if 0 < params.top_k < self.n_vocab:
            ids = samplers.top_k(row, params.top_k)
            row = row[ids]
        for truncate, amount, neutral in (
            (samplers.typical, params.typical_p, 1.0),
            (samplers.top_p, params.top_p, 1.0),
            (samplers.min_p, params.min_p, 0.0),
        ):
            if amount != neutral:
                keep = truncate(row, amount)
                ids = keep if ids is None else ids[keep]
                row = row[keep]
        return ids, samplers.weigh(row, params.temperature)

    def _with_logprobs(self, row: Floats, token_id: int, n_top: int) -> Sampled:
        best = float(row.max())
        total = best + math.log(float(np.exp(row - best).sum(dtype=np.float64)))
        ids = samplers.top_k(row, n_top) if n_top else ()
        top = tuple(Choice(int(i), float(row[i]) - total) for i in ids)
        return Sampled(token_id, float(row[token_id]) - total, top)

    def _refuse(self, row: Floats) -> None:
        """Raise for a row without a usable maximum."""
        n_nan, n_high = int(np.isnan(row).sum()), int(np.isposinf(row).sum())
        what = f"{n_nan} NaN and {n_high} infinite" if n_nan or n_high else "nothing but -inf"
        raise NumericError(
            f"the model's logits hold {what} of {self.n_vocab} values at position {self._n_history}; "
            "its weights or a kernel are damaged: check the file with `edgeinfer models verify`"
        )
