"""Floats to the bytes of a tensor, by our quantizers, and how far off they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer import kernels
from edgeinfer.converters.quantize.feedback import fed_back
from edgeinfer.converters.quantize.gptq import Feedback
from edgeinfer.errors import FormatError, UsageError
from edgeinfer.gguf import TensorType
from edgeinfer.kernels.formats import FORMATS

__all__ = ["Distortion", "encode", "encode_all", "weighs"]

Floats = npt.NDArray[np.float32]
_F16_MOST = 65504.0
_LARGE, _SAMPLED = 1 << 18, 16


@dataclass(slots=True)
class Distortion:
    """What quantizing has cost so far: the sum of squared errors beside that of the squares, of every sixteenth row of
    large pieces, since looking at all would take longer than quantizing."""

    error: float = 0.0
    power: float = 0.0

    @property
    def relative(self) -> float:
        """Root mean square error over root mean square."""
        return float((self.error / self.power) ** 0.5) if self.power else 0.0

    def add(self, kind: TensorType, before: Floats, blocks: npt.NDArray[np.uint8]) -> None:
        step = _SAMPLED if before.size > _LARGE else 1
        before = np.ascontiguousarray(before[::step])
        if kind.name == "F32":
            self.power += float(np.vdot(before, before))
            return
        off = kernels.dequantize(kind.name, np.ascontiguousarray(blocks[::step]))
        off -= before
        self.error += float(np.vdot(off, off))
        self.power += float(np.vdot(before, before))


def weighs(kind: TensorType) -> bool:
    """Whether importance makes a difference to a type."""
    return kind.name in FORMATS and FORMATS[kind.name].weighs


def encode(kind: TensorType, rows: Floats, name: str, importance: Floats | None = None) -> npt.NDArray[np.uint8]:
    """Rows of floats as bytes of ``kind``. Raises `FormatError` for values that the type cannot hold, with the
    tensor's name; `BackendUnavailable` without our library."""
    if kind.name == "F32":
        return np.ascontiguousarray(rows, "<f4").view(np.uint8)
    if kind.name == "F16" and rows.size and (most := float(np.abs(rows).max())) > _F16_MOST and np.isfinite(most):
        raise FormatError(f"tensor {name} has values up to {most:.4g}, more than F16 can hold; use --quant bf16")
    try:
        return kernels.quantize(kind.name, rows, importance=importance if weighs(kind) else None)
    except UsageError as error:
        raise FormatError(f"tensor {name}: {error}") from error


def _fed_back(kind: TensorType, rows: Floats, name: str, feedback: Feedback) -> npt.NDArray[np.uint8]:
    try:
        return fed_back(kind.name, rows, feedback)
    except UsageError as error:
        raise FormatError(f"tensor {name}: {error}") from error


def encode_all(
    kind: TensorType,
    pieces: Iterable[Floats],
    name: str,
    n_rows: int,
    distortion: Distortion,
    importance: Floats | None = None,
    feedback: Feedback | None = None,
) -> Iterator[npt.NDArray[np.uint8]]:
    """`encode` of pieces, ``n_rows`` in all; ``distortion`` adds up what it costs. ``importance``: a row of weights,
    one a column, for each expert, which the rows are shared out among. ``feedback`` takes the place of importance, for
    types in `FED_BACK`."""
    begin, per_expert = 0, n_rows // (1 if importance is None else len(importance))
    for rows in pieces:
        end = begin + len(rows)
        cuts = [begin, *(at for at in range(0, n_rows, per_expert) if begin < at < end), end]
        for first, last in itertools.pairwise(cuts):
            part = rows[first - begin : last - begin]
            if feedback is not None:
                blocks = _fed_back(kind, part, name, feedback)
            else:
                blocks = encode(kind, part, name, None if importance is None else importance[first // per_expert])
            distortion.add(kind, part, blocks)
            yield blocks
        begin = end
