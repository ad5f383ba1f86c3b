"""Blocks that step around a point of their own: scales and zero points of w = scale * (q - zero), both q and zero from
0 to 15.

The operator multiplies by just that. Our kernels have it as Q4_1, w = d * q + m with d and m in half precision, so the
scales found here are such that m = -zero * scale is a half too: they have fewer bits than a half, by those that the odd
part of the zero point needs, which moves a scale by 1/128 of itself at most. Either kernel then has the very same
weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.to_onnx.steps import half, pieces_of_rows

__all__ = ["TOP", "Points", "by_least_squares", "by_range", "half_quadratic", "quants_around", "shared_by_both"]

Floats = npt.NDArray[np.float32]
Points = tuple[Floats, Floats]
"""Scales and zero points, ``(n_rows, blocks)`` each; the latter whole numbers from 0 to `TOP`, as floats."""
TOP = 15
_MOST = np.float32(65504 // (TOP + 1))
_LOST_BITS = np.array([0, 0, 0, 2, 0, 3, 2, 3, 0, 4, 3, 4, 2, 4, 3, 4], np.uint16)
"""By zero point: bits of a scale that must be 0, so that eleven hold the product. Twice as much needs no more."""
_SHRINKS = np.arange(30, 46, dtype=np.float32) / np.float32(40)
"""How much of the range between the least and the greatest weight the steps span."""
_ROUNDS, _NORM, _BETA, _KAPPA = 20, np.float32(0.7), np.float32(10), np.float32(1.01)
"""Of half-quadratic splitting, as its authors have it; weights are in steps here, so that one choice suits all."""


def shared_by_both(scales: Floats, zeros: Floats) -> Floats:
    """The nearest scales that are halves, and halves still when they are multiplied by their zero points."""
    bits = half(np.clip(scales, -_MOST, _MOST)).astype(np.float16).view(np.uint16)
    lost = _LOST_BITS[zeros.astype(np.intp)]
    middle = np.where(lost > 0, np.uint16(1) << np.maximum(lost, 1) - np.uint16(1), np.uint16(0))
    rounded = (bits + middle.astype(np.uint16)) >> lost << lost  # away from 0 in the middle; carries into the exponent
    found: Floats = rounded.astype(np.uint16).view(np.float16).astype(np.float32)
    return found


def quants_around(blocks: Floats, scales: Floats, zeros: Floats) -> Floats:
    """The nearest q of blocks ``(..., block)`` under scales and zero points ``(..., 1)``, as floats; where a scale is
    0, the zero point, which stands for 0."""
    divisors = np.where(scales == 0, np.float32(1), scales)
    steps = np.where(scales == 0, np.float32(0), blocks / divisors)
    nearest: Floats = np.clip(np.rint(steps + zeros), 0, TOP)
    return nearest


def by_range(rows: Floats, block: int) -> Points:
    """From the least weight to the greatest, and 0 between them: plain rounding's."""
    return _by_pieces(rows, block, lambda blocks: _spanned(*_ends(blocks), np.float32(1)))


def by_least_squares(rows: Floats, weights: Floats, block: int) -> Points:
    """Of least error, each column's square times its weight ``(n_cols,)``: candidates span more or less of the range,
    from a zero point or one beside it, and for their quants the best scale is a fit."""
    weights = np.ascontiguousarray(weights, np.float32).reshape(1, -1, block)
    return _by_pieces(rows, block, lambda blocks: _fitted(blocks, weights))


def half_quadratic(rows: Floats, block: int) -> Points:
    """HQQ (Badri and Shaji 2023): zero points of least error in the norm |.|^0.7, which cares less for the few large
    weights than squares do. The error is split off by shrinking, and the zero point is the mean of what is left; that
    again and again, with a scale that is fitted as well. The best of what came by is kept."""
    return _by_pieces(rows, block, _split)


def _by_pieces(rows: Floats, block: int, work: Callable[[Floats], Points]) -> Points:
    n_rows, n_cols = rows.shape
    scales = np.empty((n_rows, n_cols // block), np.float32)
    zeros = np.empty_like(scales)
    for at in pieces_of_rows(n_rows, n_cols):
        scale, zero = work(rows[at].reshape(-1, n_cols // block, block))
        scales[at], zeros[at] = shared_by_both(scale, zero)[..., 0], zero[..., 0]
    return scales, zeros


def _ends(blocks: Floats) -> Points:
    """The least and the greatest weight, ``(..., 1)``, with 0 between them: it must have a step."""
    low, high = blocks.min(axis=-1, keepdims=True), blocks.max(axis=-1, keepdims=True)
    return np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))


def _spanned(low: Floats, high: Floats, part: np.float32) -> Points:
    """Steps that span that part of a range, around its middle."""
    scales = (high - low) * (part / np.float32(TOP))
    divisors = np.where(scales == 0, np.float32(1), scales)
    zeros: Floats = np.clip(np.rint(np.float32(TOP / 2) - (low + high) / (2 * divisors)), 0, TOP)
    return scales, zeros


def _fitted(blocks: Floats, weights: Floats) -> Points:
    low, high = _ends(blocks)
    scales, zeros = _spanned(low, high, np.float32(1))
    best: Floats = np.full_like(scales, -np.inf)
    for part in _SHRINKS:
        tried, around = _spanned(low, high, part)
        for beside in (-1, 0, 1):
            zero = np.clip(around + np.float32(beside), 0, TOP)
            steps = quants_around(blocks, tried, zero) - zero
            scale, gain = _fit(blocks, steps, weights)
            better = gain > best
            best, scales, zeros = (
                np.where(better, new, old) for new, old in ((gain, best), (scale, scales), (zero, zeros))
            )
    return scales, zeros


def _fit(blocks: Floats, steps: Floats, weights: Floats | np.float32) -> Points:
    """The scale of least weighted squares for these steps, and how much of the squares it leaves out of the error; 0
    where all steps are 0."""
    weighted = weights * steps
    squares = (weighted * steps).sum(axis=-1, keepdims=True)
    fit = (weighted * blocks).sum(axis=-1, keepdims=True)
    scale = fit / np.where(squares > 0, squares, np.float32(1))
    return scale, scale * fit


def _split(blocks: Floats) -> Points:
    scales, zeros = _spanned(*_ends(blocks), np.float32(1))
    unit: Floats = np.where(scales == 0, np.float32(1), scales)
    blocks = blocks / unit  # in steps of plain rounding
    scale, zero, beta = np.where(scales == 0, np.float32(0), np.float32(1)), zeros, _BETA
    kept, best = scale, np.full_like(scales, np.inf)
    for _ in range(_ROUNDS):
        steps = quants_around(blocks, scale, zero) - zero
        left = blocks - scale * steps
        size = np.abs(left)
        cost = (size**_NORM).sum(axis=-1, keepdims=True)
        better = cost < best
        best, kept, zeros = (np.where(better, new, old) for new, old in ((cost, best), (scale, kept), (zero, zeros)))
        tiny = np.maximum(size, np.float32(1e-6))
        inliers = blocks - np.sign(left) * np.maximum(size - tiny ** (_NORM - 1) / beta, 0)
        scale = np.where(scale == 0, scale, _fit(inliers, steps, np.float32(1))[0])
        moved = (steps + zero - inliers / np.where(scale == 0, np.float32(1), scale)).mean(axis=-1, keepdims=True)
        zero, beta = np.clip(np.rint(moved), 0, TOP), beta * _KAPPA
    return kept * unit, zeros
