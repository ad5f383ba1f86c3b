"""Samplers: choose among tokens by their logits. `greedy` and the truncations (top-k, typical, top-p, min-p), plain
functions.

A truncation takes the logits of the tokens still in play and returns the positions to keep, ascending, so that an array
which was ordered (by token id, or best first) stays ordered. Nothing here knows about requests, text or random state,
and nothing sorts a whole vocabulary unless the model is so unsure that the answer needs it: candidates are found above
a bound first.

Logits are float32 and finite, or -inf for a token that cannot be chosen; at least one is finite. Ties go to the lower
position.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgeinfer import kernels

Floats = npt.NDArray[np.float32]
Weights = npt.NDArray[np.floating]
Positions = npt.NDArray[np.intp]

_SMALL = 1024  # below this a plain sort is as fast as looking for a bound
_FEW = 512  # up to here our kernel beats NumPy, two to four times over a vocabulary of 150,000; both find the same
_GUESSES = (256, 4096)  # how many of the best are looked at before a large set is assumed
_GROUP = 64  # tokens compared with each other to bound the k-th best: larger is faster, until k groups are hard to fill


def greedy(logits: Floats) -> int:
    """The token with the highest logit; the lowest id of several. A NaN anywhere wins, so checking the winner finds
    it."""
    return int(logits.argmax())


def top_k(logits: Floats, k: int) -> Positions:
    """Positions of the ``k`` best tokens, best first; fewer where fewer are possible (0 means all that are
    possible)."""
    n = logits.size
    if 0 < k < n and n > _SMALL:
        if k <= _FEW and kernels.available():
            return kernels.top_k(logits, k).astype(np.intp)
        bound = _kth_bound(logits, k)
        found = np.flatnonzero(logits >= bound if bound > -np.inf else logits > -np.inf)
    else:
        found = np.flatnonzero(logits > -np.inf)
    order = found[np.argsort(-logits[found], kind="stable")]
    return order[:k] if k else order


def _kth_bound(keys: Floats, k: int) -> float:
    """A value that at least ``k`` of the keys reach. Each column's maximum is a key of its own, so the k-th best
    maximum will do."""
    rows = min(_GROUP, keys.size // (2 * k))
    if rows < 2:
        return float(np.partition(keys, keys.size - k)[keys.size - k])
    columns = keys.size // rows
    maxima = keys[: rows * columns].reshape(rows, columns).max(axis=0)
    return float(np.partition(maxima, columns - k)[columns - k])


def typical(logits: Floats, p: float) -> Positions:
    """Locally typical sampling (Meister et al., 2022, https://arxiv.org/abs/2202.00666): the smallest set of tokens
    reaching mass ``p`` whose surprise is closest to the expected surprise (the entropy)."""
    weights = weigh(logits)
    total = float(weights.sum(dtype=np.float64))
    surprise = logits.max() - logits + np.float32(math.log(total))
    entropy = float(np.dot(weights, np.minimum(surprise, np.float32(1e30)))) / total
    keys = np.subtract(surprise, np.float32(entropy), out=surprise)
    return _smallest_set(np.negative(np.abs(keys, out=keys), out=keys), weights, p * total)


def top_p(logits: Floats, p: float) -> Positions:
    """Nucleus sampling (Holtzman et al., 2020, https://arxiv.org/abs/1904.09751): the smallest set of the most probable
    tokens whose mass reaches ``p``; at least one token."""
    weights = weigh(logits)
    return _smallest_set(logits, weights, p * float(weights.sum(dtype=np.float64)))


def min_p(logits: Floats, p: float) -> Positions:
    """The tokens at least ``p`` times as probable as the best (Nguyen et al., 2024,
    https://arxiv.org/abs/2407.01082)."""
    if p <= 0:
        return np.flatnonzero(logits > -np.inf)
    return np.flatnonzero(logits >= float(logits.max()) + math.log(p))


def _smallest_set(keys: Floats, weights: Weights, mass: float) -> Positions:
    """Positions, ascending, of the smallest set of highest keys whose weights reach ``mass``."""
    for k in (0,) if keys.size <= _SMALL else _GUESSES:
        order = top_k(keys, k)
        ends = np.cumsum(weights[order], dtype=np.float64)
        if order.size < k or k == 0 or ends[-1] >= mass:
            return np.sort(order[: int(np.searchsorted(ends, mass)) + 1])
    return _smallest_large_set(keys, weights, mass)


def _smallest_large_set(keys: Floats, weights: Weights, mass: float) -> Positions:
    """The same without a sort of the whole: tokens go into buckets by key, and only the bucket where the mass is
    reached is put in order."""
    possible = np.flatnonzero(weights > 0)
    depth = keys.max() - keys[possible]
    bucket = (depth * (4095 / (float(depth.max()) or 1.0))).astype(np.intp)
    ends = np.cumsum(np.bincount(bucket, weights[possible]))
    edge = min(int(np.searchsorted(ends, mass)), ends.size - 1)
    inside = possible[bucket == edge]
    inside = inside[np.argsort(-keys[inside], kind="stable")]
    missing = mass - (float(ends[edge - 1]) if edge else 0.0)
    n_keep = int(np.searchsorted(np.cumsum(weights[inside], dtype=np.float64), missing)) + 1
    return np.sort(np.concatenate([possible[bucket < edge], inside[:n_keep]]))


def weigh(logits: Floats, temperature: float = 1.0) -> Weights:
    """Probabilities up to a constant factor; the best token weighs 1. Float64, but float32 for a long row, whose tail
    needs no more and which costs a quarter of the time."""
    weights: Weights = logits - logits.max()
    if weights.size <= _SMALL:
        weights = weights.astype(np.float64)
    if temperature != 1.0:
        # Bounded so that a row of -inf or of 0 divides without a NaN; beyond them a row is one-hot or flat anyway.
        with np.errstate(over="ignore"):
            weights /= min(max(temperature, 1e-30), 1e30)
    return np.exp(weights, out=weights)


def draw(weights: Weights, uniform: float) -> int:
    """The position that ``uniform``, in [0, 1), falls on when the weights are laid end to end; never one of weight
    0."""
    first = 0
    if weights.size > _SMALL:
        # Find the block first: sums of blocks cost a fraction of a running sum over a vocabulary.
        blocks = np.add.reduceat(weights, np.arange(0, weights.size, _SMALL), dtype=np.float64)
        block, target = _fall(blocks, uniform * float(blocks.sum()))
        first = block * _SMALL
        weights = weights[first : first + _SMALL]
    else:
        target = uniform * float(weights.sum(dtype=np.float64))
    return first + _fall(weights, target)[0]


def _fall(weights: Weights, target: float) -> tuple[int, float]:
    """Where along the weights ``target`` lies, and how far into that one. Past the end by a rounding means the last
    above 0."""
    ends = np.cumsum(weights, dtype=np.float64)
    position = int(np.searchsorted(ends, target, side="right"))
    position = min(position, int(np.searchsorted(ends, ends[-1])))
    return position, target - (float(ends[position - 1]) if position else 0.0)
