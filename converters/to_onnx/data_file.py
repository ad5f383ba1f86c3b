"""The file beside a graph that holds its large initializers. Owns offsets and alignment; knows no model.

Space is taken first and written in pieces later, in any order, so that a tensor need never be in memory whole.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["DataFile", "Region"]

_ALIGNMENT = 64
_PAGE_ALIGNMENT = 1 << 16  # what Windows needs to map a part of a file
_LARGE = 1 << 20


class Region:
    """Room for one tensor. ``value`` is its initializer."""

    def __init__(self, file: DataFile, value: ir.Value, offset: int, n_bytes: int) -> None:
        self.value = value
        self._file = file
        self._offset = offset
        self._n_bytes = n_bytes

    def write(self, array: npt.NDArray[np.generic], at: int) -> None:
        """Write an array ``at`` a byte of this tensor."""
        if at + array.nbytes > self._n_bytes:
            raise ValueError(f"{array.nbytes} bytes at {at} do not fit into the {self._n_bytes} of {self.value.name}")
        self._file.write(array, self._offset + at)


class DataFile:
    """Written once, from the start; closing it flushes it to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("xb")
        self._end = 0

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.truncate(self._end)
        self._stream.close()

    def room(self, name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> Region:
        """Room for an initializer called ``name``."""
        n_bytes = math.ceil(math.prod(shape) * dtype.bitwidth / 8)
        alignment = _PAGE_ALIGNMENT if n_bytes >= _LARGE else _ALIGNMENT
        offset = -(-self._end // alignment) * alignment
        self._end = offset + n_bytes
        tensor = ir.ExternalTensor(
            self.path.name, offset, n_bytes, dtype, shape=ir.Shape(shape), name=name, base_dir=self.path.parent
        )
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
        return Region(self, value, offset, n_bytes)

    def add(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """A whole array as an initializer."""
        region = self.room(name, ir.DataType.from_numpy(array.dtype), array.shape)
        region.write(array, 0)
        return region.value

    def write(self, array: npt.NDArray[np.generic], offset: int) -> None:
        self._stream.seek(offset)
        self._stream.write(np.ascontiguousarray(array).data)
