"""How far two models are apart and how well one predicts a text: figures from logits, each with its spread.

Pure arithmetic on arrays: knows no engine and no text. Rows come in chunks of any size, and what is kept of a row is a
few numbers. Divergences are in nats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Distances",
    "Estimate",
    "distances",
    "kl_divergence",
    "log_softmax",
    "perplexity",
    "perplexity_ratio",
    "proportion",
    "token_logprobs",
]

Rows = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.float64]

_AT_ONCE = 8  # rows in float64: a vocabulary of 150,000 makes 1.2 MB of each
_Z = 1.959963984540054  # a normal variable lies within so many deviations 95 times of 100
_BLOCK = 16  # tokens whose losses are averaged before their spread is taken


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that covers the true one 95 times of 100. ``n``: what it was estimated from."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Distances:
    """How far rows of logits are from a reference's, one number a row.

    ``kl``: divergence of the row from the reference's. ``first``, ``first_reference``: the likeliest token of each.
    ``overlap``: the share of the reference's k likeliest tokens that are among the row's k likeliest. ``difference``:
    the largest difference of any logit, after the mean difference is taken out, which no probability depends on: 0
    says that the rows are the same, bit for bit but for that."""

    kl: Numbers
    first: npt.NDArray[np.int32]
    first_reference: npt.NDArray[np.int32]
    overlap: Numbers
    difference: Numbers

    @property
    def agree(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.first == self.first_reference)

    @staticmethod
    def joined(parts: list[Distances]) -> Distances:
        """The chunks of a run as one; at least one chunk."""
        names = ("kl", "first", "first_reference", "overlap", "difference")
        return Distances(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def log_softmax(logits: Rows) -> Numbers:
    """Log-probabilities of each row, float64, same shape."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def kl_divergence(reference: Rows, logits: Rows) -> Numbers:
    """KL(reference || logits) of each row, shape ``(n,)``: what is lost by taking the second for the first. Never
    below 0, and exactly 0 for equal rows."""
    found = [_kl(log_softmax(a), log_softmax(b)) for a, b in _pairs(reference, logits)]
    return np.concatenate(found) if found else np.empty(0)


def distances(reference: Rows, logits: Rows, k: int) -> Distances:
    """Hold rows ``(n, n_vocab)`` against a reference's; ``k``: see `Distances.overlap`. At least one row, all
    finite."""
    parts = []
    for a, b in _pairs(reference, logits):
        apart = b.astype(np.float64) - a
        apart -= apart.mean(axis=1, keepdims=True)
        heads = _heads(a, k), _heads(b, k)
        parts.append(
            Distances(
                _kl(log_softmax(a), log_softmax(b)),
                b.argmax(axis=1).astype(np.int32),
                a.argmax(axis=1).astype(np.int32),
                np.array([len(np.intersect1d(x, y)) / len(x) for x, y in zip(*heads, strict=True)]),
                np.abs(apart).max(axis=1),
            )
        )
    return Distances.joined(parts)


def token_logprobs(logits: Rows, token_ids: npt.NDArray[np.integer]) -> Numbers:
    """What each row says of one token: log-probabilities, shape ``(n,)``."""
    found = [
        log_softmax(logits[i : i + _AT_ONCE])[np.arange(len(token_ids[i : i + _AT_ONCE])), token_ids[i : i + _AT_ONCE]]
        for i in range(0, len(token_ids), _AT_ONCE)
    ]
    return np.concatenate(found) if found else np.empty(0)


def _pairs(reference: Rows, logits: Rows) -> Iterator[tuple[Rows, Rows]]:
    for i in range(0, len(reference), _AT_ONCE):
        yield reference[i : i + _AT_ONCE], logits[i : i + _AT_ONCE]


def _kl(log_p: Numbers, log_q: Numbers) -> Numbers:
    """Rounding may leave a sum of almost nothing below 0, where no divergence is."""
    return np.asarray(np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0))


def _heads(rows: Rows, k: int) -> npt.NDArray[np.intp]:
    """Positions of the k largest values of each row, in any order."""
    k = min(k, rows.shape[1])
    return np.argpartition(rows, rows.shape[1] - k, axis=1)[:, -k:]


# ---- estimates


def perplexity(logprobs: Numbers) -> Estimate:
    """exp of the mean loss on a text, with its interval. ``logprobs``: of each token as it came. At least one."""
    return _exponential(-logprobs)


def perplexity_ratio(logprobs: Numbers, reference: Numbers) -> Estimate:
    """A model's perplexity over a reference's on the same tokens. Both stumble over the same ones, so that the interval
    of the ratio is much narrower than those of the two."""
    return _exponential(reference - logprobs)


def _exponential(losses: Numbers) -> Estimate:
    """exp of a mean. Losses of neighbours are alike, so the spread is that of the means of blocks of neighbours (batch
    means; Law and Kelton, Simulation Modeling and Analysis), where there are enough of them to tell."""
    mean = float(losses.mean())
    n_blocks = len(losses) // _BLOCK
    blocks = losses[: n_blocks * _BLOCK].reshape(n_blocks, _BLOCK).mean(axis=1) if n_blocks >= 8 else losses
    error = float(blocks.std(ddof=1)) / math.sqrt(len(blocks)) if len(blocks) > 1 else math.inf
    return Estimate(_exp(mean), _exp(mean - _Z * error), _exp(mean + _Z * error), len(losses))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def proportion(n_right: int, n: int) -> Estimate:
    """A share of ``n`` tries (at least one), with Wilson's score interval (1927), which stays within 0 and 1."""
    share, z2 = n_right / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Estimate(share, max(0.0, middle - reach), min(1.0, middle + reach), n)
