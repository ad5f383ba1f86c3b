"""The search for scales of least weighted squared error, for formats that have no closed rule.

The method is that of llama.cpp's K-quants (https://github.com/ggml-org/llama.cpp/pull/1684 and later): candidates for
the scale give quants, and for given quants the best scale is a least-squares fit. What is minimised is simply the sum
of weight * error^2; all weights are 1 where there are none. Each function acts on the last axis, which it keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeinfer.kernels.formats.block_format import Floats
from edgeinfer.kernels.formats.rounding import extremes, farthest, nearest, total

TINY = np.float32(2.0**-100)
"""Values whose spread is below this count as equal: no scale of half precision resolves it."""


def clamped(values: Floats, low: float, high: float) -> Floats:
    """The nearest integers within a range, as floats."""
    return nearest(np.minimum(np.maximum(values, np.float32(low)), np.float32(high)))


@np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")  # of candidates that are then not taken
def fit_scale_min(x: Floats, w: Floats, q_max: int, offsets: Floats) -> tuple[Floats, Floats]:
    """Scale and min, both at least 0, for x = scale * q - min with q from 0 to ``q_max``.

    A candidate stretches the range of x over ``q_max`` plus each of ``offsets`` steps.
    """
    least, greatest = extremes(x)
    low = np.minimum(least, np.float32(0))
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
        positive = b > 0
        a = np.where(positive, sum_qx / sum_qq, a)
        b = np.where(positive, np.float32(0), b)
        error = a * q + b - x
        error = total(w * error * error)
        better = (determinant > 0) & (a > 0) & (error < best)
        best = np.where(better, error, best)
        scale, offset = np.where(better, a, scale), np.where(better, b, offset)
    return np.where(flat, np.float32(0), scale), np.float32(0) - np.where(flat, low, offset)


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
