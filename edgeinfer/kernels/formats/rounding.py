"""Arithmetic that must come out the same in NumPy and in C++: rounding, and sums in one order. All of it is float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.kernels.formats.block_format import Floats

_SHIFT = np.float32(1.5 * 2**23)  # adding it leaves no bits for a fraction


def nearest(values: Floats) -> Floats:
    """Rounded to integers, ties to even; the values are below 2^22 in magnitude. Never -0."""
    rounded: Floats = (values + _SHIFT) - _SHIFT
    return rounded


def total(values: Floats) -> Floats:
    """The sum along the last axis, whose length is a power of two: the second half is added to the first until one is
    left. Float addition is not associative; this order suits vectors. Keeps the axis."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values


def extremes(values: Floats) -> tuple[Floats, Floats]:
    """The least and the greatest along the last axis, which is kept; -0 is less than 0."""
    keys = values.view(np.int32)
    keys = keys ^ (keys >> 31 & 0x7FFFFFFF)
    ends = [keys.min(axis=-1, keepdims=True), keys.max(axis=-1, keepdims=True)]
    least, greatest = (np.ascontiguousarray(end ^ (end >> 31 & 0x7FFFFFFF)).view(np.float32) for end in ends)
    return least, greatest


def farthest(values: Floats) -> Floats:
    """The value of greatest magnitude along the last axis, with its sign, the first of several; the axis is kept."""
    return np.take_along_axis(values, np.abs(values).argmax(axis=-1, keepdims=True), axis=-1)


def reciprocal(scale: Floats) -> Floats:
    """1 / scale; 0 where that is infinite."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return _floats(np.where(np.isfinite(inverse), inverse, np.float32(0)))


def divisor(scale: Floats) -> Floats:
    """The scale, or 1 where it is 0."""
    return _floats(np.where(scale == 0, np.float32(1), scale))


def _floats(values: npt.NDArray[np.floating]) -> Floats:
    """For the type checker, which takes the choice of two arrays of float32 for one of float64."""
    return values.astype(np.float32, copy=False)
