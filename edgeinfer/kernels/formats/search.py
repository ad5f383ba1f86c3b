"""The search for scales of least weighted squared error, for formats that have no closed rule.

The method is that of llama.cpp's K-quants (https://github.com/ggml-org/llama.cpp/pull/1684 and later): candidates for
the scale give quants, and for given quants the best scale is a least-squares fit. What is minimised is simply the sum
of weight * error^2; all weights are 1 where there are none. Each function acts on the last axis, which it keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeinfer.kernels.formats.block_format import Floats
from edgeinfer.kernels.formats.packing import Words, half_precision
from edgeinfer.kernels.formats.rounding import divisor, extremes, farthest, nearest, total

TINY = np.float32(2.0**-100)
"""Values whose spread is below this count as equal: no scale of half precision resolves it."""


def clamped(values: Floats, low: float, high: float) -> Floats:
    """The nearest integers within a range, as floats."""
    return nearest(np.minimum(np.maximum(values, np.float32(low)), np.float32(high)))


@np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")  # of candidates that are then not taken
def fit_scale_min(
    x: Floats, w: Floats, q_max: int, offsets: Floats, *, free_min: bool = False
) -> tuple[Floats, Floats]:
    """Scale and min, both at least 0, for x = scale * q - min with q from 0 to ``q_max``; a ``free_min`` may be
    less.

    A candidate stretches the range of x over ``q_max`` plus each of ``offsets`` steps.
    """
    least, greatest = extremes(x)
    low = least if free_min else np.minimum(least, np.float32(0))
    spread = greatest - low
    flat = spread < TINY
    spread = np.where(flat, np.float32(1), spread)
    above = x - low
    sum_w, sum_x = total(w), total(w * x)
    scale, offset = spread / np.float32(q_max), low
    best = np.full_like(scale, np.inf)
    for step in offsets:
        q = np.minimum(nearest(above * ((np.float32(q_max) + step) / spread)), np.float32(q_max))
        wq = w * q
        sum_q, sum_qq, sum_qx = total(wq), total(wq * q), total(wq * x)
        determinant = sum_w * sum_qq - sum_q * sum_q
        a = (sum_w * sum_qx - sum_q * sum_x) / determinant
        b = (sum_qq * sum_x - sum_q * sum_qx) / determinant
        positive = (b > 0) & (not free_min)
        a = np.where(positive, sum_qx / sum_qq, a)
        b = np.where(positive, np.float32(0), b)
        error = a * q + b - x
        error = total(w * error * error)
        better = (determinant > 0) & (a > 0) & (error < best)
        best = np.where(better, error, best)
        scale, offset = np.where(better, a, scale), np.where(better, b, offset)
    return np.where(flat, np.float32(0), scale), np.float32(0) - np.where(flat, low, offset)


def weighted_symmetric(x: Floats, w: Floats, half: int) -> tuple[Floats, Words]:
    """d ``(n, 1)`` and q ``(n, 32)`` from 0 to ``2 * half - 1`` for x = d * (q - half)."""
    down = np.arange(-10 * half - 10, -10 * half + (12 if half == 8 else 14), 2, dtype=np.float32)
    up = np.arange(10 * half - 16, 10 * half, 2, dtype=np.float32)
    inverses = np.concatenate([down, up]) * np.float32(0.1)
    d = half_precision(fit_scale(x, w, inverses, lambda scaled: clamped(scaled, -half, half - 1)))
    q = np.where(d == 0, np.float32(0), clamped(x / divisor(d), -half, half - 1))
    return d, q.astype(np.int32) + half


def weighted_affine(x: Floats, w: Floats, q_max: int, offsets: Floats) -> tuple[Floats, Floats, Words]:
    """d and m ``(n, 1)`` and q ``(n, 32)`` from 0 to ``q_max`` for x = d * q + m."""
    scale, least = fit_scale_min(x, w, q_max, offsets, free_min=True)
    d, m = half_precision(scale), half_precision(np.float32(0) - least)
    q = np.where(d == 0, np.float32(0), clamped((x - m) / divisor(d), 0, q_max))
    return d, m, q.astype(np.int32)


@np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")
def fit_scale(x: Floats, w: Floats, inverses: Floats, quantize: Callable[[Floats], Floats]) -> Floats:
    """The scale, of either sign, for x = scale * q where q = ``quantize(x / scale)``.

    A candidate takes the x of greatest magnitude to each of ``inverses``; the first stands where no x has weight.
    """
    peak = farthest(x)
    flat = np.abs(peak) < TINY
    peak = np.where(flat, np.float32(1), peak)
    scale = peak / inverses[0]
    best = np.zeros_like(peak)
    for inverse in inverses:
        q = quantize(x * (inverse / peak))
        wq = w * q
        sum_qq, sum_qx = total(wq * q), total(wq * x)
        a = sum_qx / sum_qq
        gain = a * sum_qx  # how much of sum(w x^2) this leaves out of the error
        better = (sum_qq > 0) & (gain > best)
        best = np.where(better, gain, best)
        scale = np.where(better, a, scale)
    found: Floats = np.where(flat, np.float32(0), scale)
    return found
