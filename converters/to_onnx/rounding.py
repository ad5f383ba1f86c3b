"""The ways to round a matrix to steps: to the nearest, with scales that are searched for, and zero points with them, or
with what rounding costs taken back by other weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.quantize.feedback import Feedbacks, Inputs
from edgeinfer.converters.quantize.gptq import Feedback, Grid
from edgeinfer.converters.to_onnx.forms import Form, Parts
from edgeinfer.converters.to_onnx.steps import Steps, best_scales, half, quants_of
from edgeinfer.converters.to_onnx.zero_points import (
    TOP,
    Points,
    by_least_squares,
    by_range,
    half_quadratic,
    quants_around,
)
from edgeinfer.errors import UsageError

__all__ = ["METHODS", "Inputs", "Method", "RoundRows", "Rounding", "nearest"]

Floats = npt.NDArray[np.float32]
Method = Literal["rtn", "search", "hqq", "gptq"]
METHODS: tuple[Method, ...] = ("rtn", "search", "hqq", "gptq")
RoundRows = Callable[[Floats], tuple[Parts, Floats]]
"""Rows ``(n, n_cols)`` to their parts, and what they became."""


@dataclass(slots=True)
class Rounding:
    """``method`` for matrices of 4 bits; those of 8 are rounded to the nearest by all. ``gptq`` needs ``inputs``, and
    does what ``search`` does for matrices that it knows nothing of; ``unknown`` names them. ``hqq`` is for zero points,
    and does what ``search`` does where there are none. Raises `UsageError`."""

    method: Method = "rtn"
    inputs: Inputs | None = None
    unknown: tuple[str, ...] = ()
    _feedbacks: Feedbacks | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"no method {self.method!r}; there are: {', '.join(METHODS)}")
        if (self.method == "gptq") != (self.inputs is not None):
            raise UsageError("method gptq learns from a text: give both or neither")
        self._feedbacks = Feedbacks(self.inputs) if self.inputs else None

    def of(self, name: str, form: Form) -> RoundRows:
        """How to round the rows of a matrix. Raises `FormatError` where its inputs are no numbers."""
        steps = Steps(form.bits, form.block)
        if self.method == "rtn" or form.bits == 8:
            return lambda rows: nearest(rows, form)
        feedback = self._feedbacks.of(name) if self._feedbacks else None
        if feedback is None:
            if self._feedbacks:
                self.unknown += (name,)
            if form.zero_points:
                return lambda rows: _around_points(rows, self._points(rows, form), steps)
            return lambda rows: _by_scales(rows, best_scales(rows, _ones(rows), steps), steps)
        return lambda rows: _by_feedback(rows, feedback, steps, around_points=form.zero_points)

    def _points(self, rows: Floats, form: Form) -> Points:
        if self.method == "hqq":
            return half_quadratic(rows, form.block)
        return by_least_squares(rows, _ones(rows), form.block)


def nearest(rows: Floats, form: Form) -> tuple[Parts, Floats]:
    """To the nearest step. The weight that is farthest from 0 gets the end of the range, which for 4 bits is the longer
    one."""
    steps = Steps(form.bits, form.block)
    if form.zero_points:
        return _around_points(rows, by_range(rows, form.block), steps)
    if form.whole_rows:
        return _by_scales(rows, np.abs(rows).max(axis=1, keepdims=True) / np.float32(steps.greatest), steps)
    blocks = rows.reshape(len(rows), -1, form.block)
    ends = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    scales = ends / np.float32(-8) if form.bits == 4 else np.abs(ends) / np.float32(127)
    return _by_scales(rows, half(scales)[..., 0], steps)


def _ones(rows: Floats) -> Floats:
    return np.ones(rows.shape[1], np.float32)


def _by_feedback(
    rows: Floats, feedback: Feedback, steps: Steps, *, around_points: bool = False
) -> tuple[Parts, Floats]:
    if around_points:
        scales, zeros = by_least_squares(rows, feedback.weights, steps.block)
        return _made(scales, feedback(rows, Grid(scales, -scales * zeros, steps.block, 0, TOP)), steps, zeros)
    scales = best_scales(rows, feedback.weights, steps)
    return _made(scales, feedback(rows, Grid(scales, None, steps.block, steps.least, steps.greatest)), steps)


def _by_scales(rows: Floats, scales: Floats, steps: Steps) -> tuple[Parts, Floats]:
    quants = quants_of(rows.reshape(len(rows), -1, steps.block), scales[..., None], steps)
    return _made(scales, quants.reshape(rows.shape), steps)


def _around_points(rows: Floats, points: Points, steps: Steps) -> tuple[Parts, Floats]:
    scales, zeros = points
    quants = quants_around(rows.reshape(len(rows), -1, steps.block), scales[..., None], zeros[..., None])
    return _made(scales, quants.reshape(rows.shape), steps, zeros)


def _made(scales: Floats, quants: Floats, steps: Steps, zeros: Floats | None = None) -> tuple[Parts, Floats]:
    """Of scales ``(n_rows, blocks)`` and quants as floats ``(n_rows, n_cols)``, around 0, or from 0 on with zero points
    of the scales' shape."""
    blocks = quants.reshape(len(quants), -1, steps.block)
    if zeros is None:
        zeros = np.full_like(scales, -steps.least)
        blocks = blocks + zeros[..., None]
        points = None
    else:
        points = zeros.astype(np.uint8)
    q: npt.NDArray[np.uint8] = blocks.astype(np.uint8)
    if steps.bits == 4:
        q = (q[..., 0::2] | q[..., 1::2] << 4).astype(np.uint8)
    return Parts(q, scales, zeros=points), ((blocks - zeros[..., None]) * scales[..., None]).reshape(quants.shape)
