"""A source's matrices as floats, whatever they are: what --quant f32, f16 and bf16 ask for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeinfer.converters.sources import Bytes, SourceTensor, TensorSource
from edgeinfer.converters.to_onnx.requantize import values
from edgeinfer.errors import FormatError
from edgeinfer.kernels.formats import FORMATS

__all__ = ["FloatSource"]

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_MOST = 65504.0


class FloatSource:
    """``kinds``: the types of those that are to be floats; the others stay as they are. What rounding costs is added up
    as it is read; reading twice counts twice, which changes no ratio."""

    def __init__(self, source: TensorSource, kinds: Mapping[str, str]) -> None:
        self.label = source.label
        self._source = source
        self._error = self._power = 0.0
        made = {name: (source.tensors[name], kind) for name, kind in kinds.items()}
        self.tensors = dict(source.tensors) | {
            name: SourceTensor(tensor.shape, kind, tensor.n_cols * _ITEM_BYTES[kind])
            for name, (tensor, kind) in made.items()
        }

    def rows(self, name: str, first: int, n_rows: int) -> Bytes:
        found, kind = self._source.rows(name, first, n_rows), self._source.tensors[name].type
        to = self.tensors[name].type
        if kind == to:
            return found
        floats = np.ascontiguousarray(values(kind, found))
        if to == "F32":
            return floats.view(np.uint8)
        if to == "F16" and (most := float(np.abs(floats).max(initial=0))) > _MOST and np.isfinite(most):
            raise FormatError(
                f"{self.label}: tensor {name} has values up to {most:.4g}, more than F16 can hold; use --quant bf16"
            )
        stored = FORMATS[to].quantize_blocks(floats.reshape(-1, 1), None)
        off = FORMATS[to].dequantize_blocks(stored).reshape(floats.shape) - floats
        self._error += float(np.vdot(off, off))
        self._power += float(np.vdot(floats, floats))
        return stored.reshape(n_rows, -1)

    @property
    def measured(self) -> dict[str, float]:
        """The error of what was rounded relative to it, as root mean squares; nothing where all is exact."""
        return {"relative_error": (self._error / self._power) ** 0.5} if self._error else {}
