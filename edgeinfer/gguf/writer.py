"""Writing GGUF files, version 3: a header from keys and shapes, then each tensor piece by piece, so that no tensor need
be in memory whole. Knows no model; what it writes, `edgeinfer.gguf.read_structure` takes back."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import FormatError
from edgeinfer.gguf.formats import NUMBER_DTYPES, TensorType, ValueType

__all__ = ["NewTensor", "array", "encoded", "integer", "planned_bytes", "string", "write"]

_ALIGNMENT = 32
_VERSION = 3

Piece = npt.NDArray[np.generic] | bytes


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written. ``shape`` in GGUF order, innermost dimension first; ``pieces`` is asked for its bytes
    once, when all before it are written."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    pieces: Callable[[], Iterable[Piece]]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) // self.type.block_size * self.type.block_bytes


def string(value: str) -> bytes:
    """A text as a metadata value."""
    return struct.pack("<I", ValueType.STRING) + _text(value)


def integer(value: int, kind: ValueType = ValueType.UINT32) -> bytes:
    """An integer as a metadata value."""
    return struct.pack("<I", kind) + np.array([value]).astype(NUMBER_DTYPES[kind], casting="unsafe").tobytes()


def array(values: npt.NDArray[np.int32]) -> bytes:
    """An array of int32 as a metadata value."""
    return struct.pack("<IIQ", ValueType.ARRAY, ValueType.INT32, values.size) + values.astype("<i4").tobytes()


_ARRAY_KINDS = {kind.str: value_type for value_type, kind in NUMBER_DTYPES.items()}


def encoded(value: str | bool | int | float | Sequence[str] | npt.NDArray[np.generic]) -> bytes:
    """A value of Python as a metadata value: whole numbers as uint32 where they fit and int64 where not, others as
    float32, a sequence of text or an array of numbers as an array."""
    if isinstance(value, str):
        return string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", ValueType.BOOL, value)
    if isinstance(value, int):
        return integer(value, ValueType.UINT32 if 0 <= value < 1 << 32 else ValueType.INT64)
    if isinstance(value, float):
        return struct.pack("<If", ValueType.FLOAT32, value)
    if isinstance(value, np.ndarray):
        kind = _ARRAY_KINDS[value.dtype.newbyteorder("<").str]
        return struct.pack("<IIQ", ValueType.ARRAY, kind, value.size) + value.astype(NUMBER_DTYPES[kind]).tobytes()
    return struct.pack("<IIQ", ValueType.ARRAY, ValueType.STRING, len(value)) + b"".join(map(_text, value))


def planned_bytes(keys: Mapping[str, bytes], tensors: Sequence[NewTensor]) -> int:
    """How long the file of these will be."""
    return _padded(len(_header(keys, tensors))) + sum(_padded(tensor.n_bytes) for tensor in tensors)


def write(stream: IO[bytes], keys: Mapping[str, bytes], tensors: Sequence[NewTensor]) -> None:
    """Write a whole file to ``stream``. ``keys``: metadata values as the functions above, or `Metadata.stored`, give
    them. Raises `FormatError` where a tensor's pieces are not as long as its shape says, and what they raise."""
    header = _header(keys, tensors)
    stream.write(header + bytes(_padded(len(header)) - len(header)))
    for tensor in tensors:
        n_written = 0
        for piece in tensor.pieces():
            data = memoryview(piece).cast("B") if isinstance(piece, bytes) else memoryview(piece.tobytes())
            n_written += stream.write(data)
        if n_written != tensor.n_bytes:
            raise FormatError(f"tensor {tensor.name} came as {n_written} bytes, but its shape needs {tensor.n_bytes}")
        stream.write(bytes(_padded(n_written) - n_written))


def _header(keys: Mapping[str, bytes], tensors: Sequence[NewTensor]) -> bytes:
    parts = [struct.pack("<4sIQQ", b"GGUF", _VERSION, len(tensors), len(keys))]
    parts += [_text(key) + value for key, value in keys.items()]
    offset = 0
    for tensor in tensors:
        parts.append(_text(tensor.name) + struct.pack("<I", len(tensor.shape)))
        parts.append(struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.type.id, offset))
        offset += _padded(tensor.n_bytes)
    return b"".join(parts)


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
