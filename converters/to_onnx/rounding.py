"""The ways to round a matrix to steps: to the nearest, with scales that are searched for, or with what rounding costs
taken back by other weights."""

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
from edgeinfer.errors import UsageError

__all__ = ["METHODS", "Inputs", "Method", "RoundRows", "Rounding", "nearest"]

Floats = npt.NDArray[np.float32]
Method = Literal["rtn", "search", "gptq"]
METHODS: tuple[Method, ...] = ("rtn", "search", "gptq")
RoundRows = Callable[[Floats], tuple[Parts, Floats]]
"""Rows ``(n, n_cols)`` to their parts, and what they became."""


@dataclass(slots=True)
class Rounding:
    """``method`` for matrices of 4 bits; those of 8 are rounded to the nearest by all. ``gptq`` needs ``inputs``, and
    does what ``search`` does for matrices that it knows nothing of; ``unknown`` names them. Raises `UsageError`."""

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
            return lambda rows: _by_scales(rows, best_scales(rows, _ones(rows), steps), steps)
        return lambda rows: _by_feedback(rows, feedback, steps)


def nearest(rows: Floats, form: Form) -> tuple[Parts, Floats]:
    """To the nearest step. The weight that is farthest from 0 gets the end of the range, which for 4 bits is the longer
    one."""
    steps = Steps(form.bits, form.block)
    if form.whole_rows:
        return _by_scales(rows, np.abs(rows).max(axis=1, keepdims=True) / np.float32(steps.greatest), steps)
    blocks = rows.reshape(len(rows), -1, form.block)
    ends = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    scales = ends / np.float32(-8) if form.bits == 4 else np.abs(ends) / np.float32(127)
    return _by_scales(rows, half(scales)[..., 0], steps)


def _ones(rows: Floats) -> Floats:
    return np.ones(rows.shape[1], np.float32)


def _by_feedback(rows: Floats, feedback: Feedback, steps: Steps) -> tuple[Parts, Floats]:
    scales = best_scales(rows, feedback.weights, steps)
    return _made(scales, feedback(rows, Grid(scales, None, steps.block, steps.least, steps.greatest)), steps)


def _by_scales(rows: Floats, scales: Floats, steps: Steps) -> tuple[Parts, Floats]:
    quants = quants_of(rows.reshape(len(rows), -1, steps.block), scales[..., None], steps)
    return _made(scales, quants.reshape(rows.shape), steps)


def _made(scales: Floats, quants: Floats, steps: Steps) -> tuple[Parts, Floats]:
    """Of scales ``(n_rows, blocks)`` and quants as floats ``(n_rows, n_cols)``."""
    blocks = quants.reshape(len(quants), -1, steps.block)
    q: npt.NDArray[np.uint8] = (blocks.astype(np.int16) - steps.least).astype(np.uint8)
    if steps.bits == 4:
        q = (q[..., 0::2] | q[..., 1::2] << 4).astype(np.uint8)
    return Parts(q, scales), (blocks * scales[..., None]).reshape(quants.shape)
