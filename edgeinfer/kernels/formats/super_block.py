"""The scales of scales in Q4_K and Q5_K: eight sub-blocks of 32, each with a scale and a min of 6 bits, under one
scale of half precision for the scales (d) and one for the mins (dmin)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeinfer.kernels.formats.block_format import Floats
from edgeinfer.kernels.formats.packing import Words, half_precision
from edgeinfer.kernels.formats.rounding import divisor, total
from edgeinfer.kernels.formats.search import clamped, fit_scale_min

_HIGHEST = np.arange(63, 55, -1, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Quantized:
    """``d`` (n, 2): d and dmin; ``scales`` and ``mins`` (n, 8); ``quants`` (n, 256)."""

    d: Floats
    scales: Words
    mins: Words
    quants: Words


def quantize_scale_min(values: Floats, weights: Floats | None, q_max: int, offsets: Floats) -> Quantized:
    """Best scale and min of each sub-block; of the nine pairs of 6-bit integers around them, that of least error, since
    rounding one up is often made good by rounding the other down; then the quants that suit."""
    x = values.reshape(-1, 8, 32)
    w = np.ones_like(x) if weights is None else weights.reshape(-1, 8, 32)
    scale, least = fit_scale_min(x, w, q_max, offsets)
    d, scales = _six_bits(scale, total(w))
    dmin, mins = _six_bits(least, total(w))
    best = np.full_like(scale, np.inf)
    best_scales, best_mins = scales, mins
    for near_scales in _neighbours(scales):
        for near_mins in _neighbours(mins):
            step, below = d * near_scales, dmin * near_mins
            error = step * _quants(x, step, below, q_max) - below - x
            error = total(w * error * error)
            better = error < best
            best = np.where(better, error, best)
            best_scales = np.where(better, near_scales, best_scales)
            best_mins = np.where(better, near_mins, best_mins)
    q = _quants(x, d * best_scales, dmin * best_mins, q_max)
    return Quantized(
        np.hstack([d[:, 0], dmin[:, 0]]),
        best_scales[..., 0].astype(np.int32),
        best_mins[..., 0].astype(np.int32),
        q.reshape(-1, 256).astype(np.int32),
    )


def _neighbours(scales: Floats) -> list[Floats]:
    zero, one, most = np.float32(0), np.float32(1), np.float32(63)
    return [scales, np.maximum(scales - one, zero), np.minimum(scales + one, most)]


def _quants(x: Floats, step: Floats, below: Floats, q_max: int) -> Floats:
    """The q of least error in x = step * q - below, as floats; 0 where the step is 0."""
    q = clamped((x + below) / divisor(step), 0, q_max)
    return np.where(step == 0, np.float32(0), q)


def _six_bits(scale: Floats, w: Floats) -> tuple[Floats, Floats]:
    """Scales ``(n, 8, 1)`` of at least 0 as a half-precision number ``(n, 1, 1)`` times integers below 64.

    The greatest becomes one of the highest integers: that for which all are nearest, by the weight ``w`` of each.
    """
    greatest = scale.max(axis=1, keepdims=True)
    best = np.full_like(greatest, np.inf)
    best_d, best_scaled = greatest, scale
    for highest in _HIGHEST:
        d = half_precision(greatest / highest)
        scaled = np.where(d == 0, np.float32(0), clamped(scale / divisor(d), 0, 63))
        error = d * scaled - scale
        error = total((w * error * error)[..., 0])[..., None]
        better = error < best
        best = np.where(better, error, best)
        best_d, best_scaled = np.where(better, d, best_d), np.where(better, scaled, best_scaled)
    return best_d, best_scaled


def dequantize_scale_min(d: Floats, scales: Words, mins: Words, quants: Words) -> Floats:
    """d * scale * q - dmin * min, each product rounded from the left."""
    step = d[:, :1] * scales.astype(np.float32)
    below = d[:, 1:] * mins.astype(np.float32)
    x = step[..., None] * quants.reshape(-1, 8, 32).astype(np.float32) - below[..., None]
    return x.reshape(-1, 256)
