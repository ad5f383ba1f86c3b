"""The file beside a graph that holds its large initializers. Owns offsets and alignment; knows no model.

Space is taken first and written in pieces later, in any order, so that a tensor need never be in memory whole.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["DataFile", "Region"]

_ALIGNMENT = 64
_PAGE_ALIGNMENT = 1 << 16  # what Windows needs to map a part of a file
_LARGE = 1 << 20


class Region:
    """Room for one tensor, which may be an initializer of several graphs."""

    def __init__(self, file: DataFile, tensor: ir.ExternalTensor, offset: int, n_bytes: int) -> None:
        self._file = file
        self._tensor = tensor
        self._offset = offset
        self._n_bytes = n_bytes

    @property
    def value(self) -> ir.Value:
        """A new initializer."""
        tensor = self._tensor
        return ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)

    def write(self, array: npt.NDArray[np.generic], at: int) -> None:
        """Write an array ``at`` a byte of this tensor."""
        if at + array.nbytes > self._n_bytes:
            raise ValueError(f"{array.nbytes} bytes at {at} do not fit into the {self._n_bytes} of {self._tensor.name}")
        self._file.write(array, self._offset + at)

    def mapped(self, dtype: type[np.generic], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Its bytes as an array to write into, in any order."""
        return self._file.mapped(dtype, shape, self._offset)


class DataFile:
    """Written once, from the start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("xb", buffering=0)
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
        return Region(self, tensor, offset, n_bytes)

    def add(self, name: str, array: npt.NDArray[np.generic]) -> Region:
        """A whole array."""
        region = self.room(name, ir.DataType.from_numpy(array.dtype), array.shape)
        region.write(array, 0)
        return region

    def write(self, array: npt.NDArray[np.generic], offset: int) -> None:
        data = np.ascontiguousarray(array).data.cast("B")
        self._stream.seek(offset)
        while data:
            data = data[self._stream.write(data) :]

    def mapped(self, dtype: type[np.generic], shape: tuple[int, ...], offset: int) -> npt.NDArray[Any]:
        self._stream.truncate(self._end)  # a map cannot reach beyond the file
        if hasattr(os, "posix_fallocate"):
            # Without room behind it a page that is written to ends the process, not the conversion.
            os.posix_fallocate(self._stream.fileno(), offset, math.prod(shape) * np.dtype(dtype).itemsize)
        return np.memmap(self.path, dtype, "r+", offset, shape)
