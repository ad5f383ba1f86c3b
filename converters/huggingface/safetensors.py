"""The header of a safetensors file, read without trusting it: what tensors there are, and where their bytes lie.

A file is 8 bytes with the length of the header, the header as a JSON object, and the tensors' bytes one after the other
without holes (https://huggingface.co/docs/safetensors). Nothing in it is ever run.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from edgeinfer.converters.huggingface.documents import parse_object
from edgeinfer.errors import FormatError
from edgeinfer.gguf.header import open_regular, shown

__all__ = ["ITEM_BYTES", "Stored", "read_header"]

_MAX_HEADER_BYTES = 100 << 20  # the limit of the library that made the format
_MAX_TENSORS = 1 << 20
_MAX_DIMS = 8
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4}
ITEM_BYTES |= {"U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8}


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor: ``shape`` rows first, its bytes from ``offset`` in the file ``path``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a file, by name. Raises `FormatError` for a file that is damaged or lies, `ModelNotFound` where
    there is none."""
    with open_regular(path) as stream:
        size = path.stat().st_size
        start = stream.read(8)
        if len(start) < 8:
            raise FormatError(f"{path} has {size} bytes, too few for a safetensors file; it is truncated")
        (n_header,) = struct.unpack("<Q", start)
        if n_header > min(_MAX_HEADER_BYTES, size - 8):
            hint = "a Git LFS pointer; fetch the model with `git lfs pull`" if start == b"version " else "truncated"
            raise FormatError(f"{path} claims a header of {n_header} bytes, but has {size - 8}: {hint} or damaged")
        header = _exactly(stream, n_header, path)
    content = parse_object(header, f"the header of {path}")
    content.pop("__metadata__", None)
    if len(content) > _MAX_TENSORS:
        raise FormatError(f"{path} claims {len(content)} tensors, more than the {_MAX_TENSORS} that are accepted")
    begin = 8 + n_header
    tensors = {name: _tensor(name, entry, path, begin) for name, entry in content.items()}
    _check_places(tensors, path, begin, size)
    return tensors


def _exactly(stream: Any, n_bytes: int, path: Path) -> bytes:
    data = bytearray()
    while len(data) < n_bytes:
        block = stream.read(n_bytes - len(data))
        if not block:
            raise FormatError(f"{path} became shorter while it was read")
        data += block
    return bytes(data)


def _tensor(name: str, entry: Any, path: Path, begin: int) -> Stored:
    what = f"{path}: tensor {shown(name)}"
    if not isinstance(entry, dict):
        raise FormatError(f"{what} is not described by an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise FormatError(f"{what} has dtype {shown(str(dtype))}, which is unknown")
    if not _whole(shape, _MAX_DIMS):
        raise FormatError(f"{what} has shape {shown(str(shape))}, which must be at most {_MAX_DIMS} whole numbers")
    if not _whole(offsets, 2) or len(offsets) != 2:
        raise FormatError(f"{what} has data_offsets {shown(str(offsets))}, which must be two whole numbers")
    stored = Stored(name, dtype, tuple(shape), path, begin + offsets[0])
    if offsets[1] - offsets[0] != stored.n_bytes:
        raise FormatError(
            f"{what} lies at {offsets[0]} to {offsets[1]}, but {dtype} {list(shape)} needs {stored.n_bytes} bytes"
        )
    return stored


def _whole(values: Any, n_most: int) -> TypeGuard[list[int]]:
    """Whether these are at most so many whole numbers of a size that files have."""
    few = isinstance(values, list) and len(values) <= n_most
    return few and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _check_places(tensors: Mapping[str, Stored], path: Path, begin: int, size: int) -> None:
    """No overlaps, no holes, all inside the file."""
    end, before = begin, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.n_bytes)):
        if tensor.offset != end:
            problem = f"overlaps {shown(before)}" if tensor.offset < end else "follows a hole"
            raise FormatError(f"{path}: tensor {shown(tensor.name)} {problem} at byte {tensor.offset}")
        end, before = tensor.offset + tensor.n_bytes, tensor.name
    if end != size:
        state = "truncated" if end > size else "longer than its tensors"
        raise FormatError(f"{path} is {state}: its tensors end at byte {end}, the file at {size}")
