"""The initializers of a graph as arrays over the file that they lie in: nothing is read before it is looked at.

Knows no node. Whoever wrote the graph is not trusted: what points outside its file is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import FormatError

if TYPE_CHECKING:
    import onnx

__all__ = ["Initializers"]

_FLOAT, _UINT8, _INT64, _HALF, _BRAIN = 1, 2, 7, 10, 16
_DTYPES: dict[int, npt.DTypeLike] = {_FLOAT: "<f4", _UINT8: "u1", _INT64: "<i8", _HALF: "<f2", _BRAIN: "<u2"}
_NAMES = {_FLOAT: "F32", _HALF: "F16", _BRAIN: "BF16"}
_LARGEST = 1 << 40


class Initializers:
    """Of the graph in ``proto``. ``locate``: where a data file of that name lies, proven to be one of the package."""

    def __init__(self, proto: onnx.ModelProto, locate: Callable[[str], Path]) -> None:
        self._locate = locate
        self._tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._files: dict[str, npt.NDArray[np.uint8]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].dims)

    def float_type(self, name: str) -> str:
        """``F32``, ``F16`` or ``BF16``. Raises `FormatError` for anything else."""
        found = _NAMES.get(self._tensors[name].data_type)
        if found is None:
            raise FormatError(f"weight {name!r} is of type {self._tensors[name].data_type}, but should be floats")
        return found

    def array(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """An initializer of just that type and shape (BF16 are ``uint16``). Raises `FormatError` for any other."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise FormatError(f"weight {name!r} is missing")
        if _DTYPES.get(tensor.data_type) is None or np.dtype(_DTYPES[tensor.data_type]) != np.dtype(dtype):
            raise FormatError(f"weight {name!r} is of type {tensor.data_type}, not {np.dtype(dtype)}")
        if tuple(tensor.dims) != shape or math.prod(shape) > _LARGEST:
            raise FormatError(f"weight {name!r} has the shape {list(tensor.dims)}, not {list(shape)}")
        data = self._bytes(tensor, math.prod(shape) * np.dtype(dtype).itemsize)
        return data.view(dtype).reshape(shape)

    def _bytes(self, tensor: onnx.TensorProto, n_bytes: int) -> npt.NDArray[np.uint8]:
        if tensor.data_location != 1:
            data = np.frombuffer(tensor.raw_data, np.uint8)
            if data.size != n_bytes:
                raise FormatError(f"weight {tensor.name!r} has {data.size} bytes of data, not {n_bytes}")
            return data
        about = {entry.key: entry.value for entry in tensor.external_data}
        data, offset = self._file(about.get("location", "")), int(about.get("offset", "0"))
        if offset < 0 or offset + n_bytes > data.size:
            raise FormatError(f"weight {tensor.name!r} does not end within its file of {data.size} bytes")
        return data[offset : offset + n_bytes]

    def _file(self, location: str) -> npt.NDArray[np.uint8]:
        if location not in self._files:
            self._files[location] = np.memmap(self._locate(location), np.uint8, "r")
        return self._files[location]
