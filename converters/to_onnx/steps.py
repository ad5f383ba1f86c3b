"""Scales of blocks that are symmetric around zero, better than those of the greatest weight. They have half precision,
so that blocks of GGUF can be made of them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Steps", "best_scales", "half", "pieces_of_rows", "quants_of"]

Floats = npt.NDArray[np.float32]
_MOST = np.float32(65504)
_PIECE = 1 << 20
"""Weights that are looked at together: a dozen arrays of their size are in memory."""
_CANDIDATES = np.concatenate([np.arange(-46, -34), np.arange(30, 40)]).astype(np.float32) / np.float32(40)
"""Where the farthest weight goes, of the range's longer side."""


@dataclass(frozen=True, slots=True)
class Steps:
    """x = scale * q with whole q from ``least`` to ``greatest``, and one scale for ``block`` weights."""

    bits: int
    block: int

    @property
    def least(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def greatest(self) -> int:
        return (1 << (self.bits - 1)) - 1


def half(scales: Floats) -> Floats:
    """As half precision keeps them, within its range."""
    return np.clip(scales, -_MOST, _MOST).astype(np.float16).astype(np.float32)


def quants_of(blocks: Floats, scales: Floats, steps: Steps) -> Floats:
    """The nearest q of blocks ``(..., block)`` under scales ``(..., 1)``, as floats; 0 where the scale is."""
    divisors = np.where(scales == 0, np.float32(1), scales)
    nearest: Floats = np.clip(np.rint(blocks / divisors), steps.least, steps.greatest)
    return nearest


def best_scales(rows: Floats, weights: Floats, steps: Steps) -> Floats:
    """Scales ``(n_rows, blocks)`` of least error, each column's square times its weight ``(n_cols,)``: candidates take
    the farthest weight to about either end of the range, and for their quants the best scale is a fit."""
    weights = np.ascontiguousarray(weights, np.float32).reshape(1, -1, steps.block)
    return _by_pieces(rows, steps, lambda blocks: _fitted(blocks, weights, steps))


def _by_pieces(rows: Floats, steps: Steps, work: Callable[[Floats], Floats]) -> Floats:
    n_rows, n_cols = rows.shape
    found = np.empty((n_rows, n_cols // steps.block), np.float32)
    for at in pieces_of_rows(n_rows, n_cols):
        found[at] = half(work(rows[at].reshape(-1, n_cols // steps.block, steps.block)))[..., 0]
    return found


def pieces_of_rows(n_rows: int, n_cols: int) -> Iterator[slice]:
    step = max(1, _PIECE // n_cols)
    for first in range(0, n_rows, step):
        yield slice(first, first + step)


def _ends(blocks: Floats) -> Floats:
    """The weight that is farthest from 0, ``(..., 1)``; 1 where all are 0."""
    ends = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    return np.where(ends == 0, np.float32(1), ends)


def _fitted(blocks: Floats, weights: Floats, steps: Steps) -> Floats:
    ends, width = _ends(blocks), np.float32(-steps.least)
    scales: Floats = ends / -width
    best: Floats = np.full_like(scales, -np.inf)
    for inverse in _CANDIDATES * width:
        q = np.clip(np.rint(blocks * (inverse / ends)), steps.least, steps.greatest)
        weighted = weights * q
        squares = (weighted * q).sum(axis=-1, keepdims=True)
        fit = (weighted * blocks).sum(axis=-1, keepdims=True)
        some = squares > 0
        scale = fit / np.where(some, squares, np.float32(1))
        gain = scale * fit  # how much of the weighted squares this leaves out of the error
        better = some & (gain > best)
        best, scales = np.where(better, gain, best), np.where(better, scale, scales)
    return scales
