"""The project's one GGUF reader: a bounds-checked view of a file's metadata and of where its tensors lie.

It proves structure (every span inside the file, no overlaps, sizes that follow from shape and type) and knows nothing
of what a model is; `edgeinfer.gguf.model` does. Tensor data are never read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer.errors import FormatError, UnsupportedQuant
from edgeinfer.gguf.formats import TENSOR_TYPES, TensorType, ValueType
from edgeinfer.gguf.header import MAX_KEYS, MAX_TENSORS, HeaderCursor, open_regular, shown
from edgeinfer.gguf.metadata import Metadata, read_metadata

__all__ = ["GGUFFile", "TensorInfo", "read_structure"]

_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 16
_MAX_DIMS = 4
_MAX_PARTS = 1000
_MAX_NAME_BYTES = 63  # ggml keeps names in 64 bytes with a NUL
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint, perhaps); convert it to GGUF first"),
    (b"\x80\x02", "a Python pickle, which is never opened; convert it to GGUF elsewhere first"),
    (b"ggjt", "of the old GGJT format; convert it again with a current converter"),
    (b"lmgg", "of the old GGML format; convert it again with a current converter"),
    (b"tjgg", "of the old GGJT format; convert it again with a current converter"),
    (b"FUGG", "byte-swapped; convert it to little-endian first"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the model; fetch it with `git lfs pull`"),
    (b"<", "a web page, not a model; the download went wrong"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. ``shape`` in GGUF order, innermost dimension first; ``offset`` in bytes from the start of the file
    ``path``."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    n_bytes: int
    path: Path

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A GGUF file whose structure has been proven. Of a split model, as `read_structure` returns it, this is one
    part."""

    path: Path
    version: int
    file_bytes: int
    alignment: int
    data_offset: int
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]
    split_index: int = 0
    split_count: int = 1

    @property
    def architecture(self) -> str:
        """``general.architecture``: a short lower-case word. Raises `FormatError`."""
        value = self.metadata.text("general.architecture")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value):
            raise FormatError(f"{self.path}: general.architecture is {shown(value)}, which is no architecture's name")
        return value


def read_structure(path: str | Path) -> GGUFFile:
    """Read and prove the structure of one GGUF file, version 2 or 3, little-endian.

    Cost: one pass over the header; memory: the header (20 MiB for the largest vocabularies). Raises `ModelNotFound`,
    `FormatError` with the byte where it went wrong, `UnsupportedQuant` for a tensor type that this version does not
    know.
    """
    path = Path(path)
    with open_regular(path) as stream:
        cursor = HeaderCursor(stream, path)
        version, n_tensors, n_keys = _preamble(cursor)
        metadata = read_metadata(cursor, n_keys)
        alignment = _alignment(cursor, metadata)
        tensors = _read_tensors(cursor, n_tensors)
        data_offset = cursor.pos + -cursor.pos % alignment
        tensors = _place(cursor, tensors, data_offset, alignment)
        index, count = _split(metadata, path)
        return GGUFFile(path, version, cursor.size, alignment, data_offset, metadata, tensors, index, count)


def _preamble(cursor: HeaderCursor) -> tuple[int, int, int]:
    if cursor.size == 0:
        cursor.fail("the file is empty")
    cursor.need(min(24, cursor.size), "the header")
    start = bytes(cursor.data[:24])
    if start[:4] != b"GGUF":
        for magic, meaning in _FOREIGN:
            if start.startswith(magic):
                cursor.fail(f"not a GGUF file; it is {meaning}")
        hint = "; it looks like safetensors, convert it first" if start[8:9] == b"{" else ""
        cursor.fail(f"not a GGUF file: it starts with {shown(start[:4].decode('latin-1'))}{hint}")
    cursor.pos = 4
    version = cursor.u32("the version")
    if version & 0xFFFF == 0 and version:
        cursor.fail("the file is big-endian; convert it to little-endian first", 4)
    if version not in (2, 3):
        cursor.fail(f"GGUF version {version} is not supported (2 and 3 are); convert the model again", 4)
    n_tensors, n_keys = cursor.u64("the number of tensors"), cursor.u64("the number of keys")
    left = cursor.size - cursor.pos
    if n_tensors > MAX_TENSORS or n_tensors * 33 > left:  # a tensor's record takes at least 33 bytes
        cursor.fail(f"{n_tensors} tensors are claimed, which {left} bytes cannot describe", 8)
    if n_keys > MAX_KEYS or n_keys * 13 > left:  # a key takes at least 13
        cursor.fail(f"{n_keys} metadata keys are claimed, which {left} bytes cannot hold", 16)
    return version, n_tensors, n_keys


def _alignment(cursor: HeaderCursor, metadata: Metadata) -> int:
    if "general.alignment" not in metadata:
        return _DEFAULT_ALIGNMENT
    alignment = metadata.integer("general.alignment")
    if metadata.kind("general.alignment") is not ValueType.UINT32:
        cursor.fail("general.alignment must be an unsigned 32-bit integer")
    if not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        cursor.fail(f"general.alignment is {alignment}, but must be a power of two up to {_MAX_ALIGNMENT}")
    return alignment


def _read_tensors(cursor: HeaderCursor, n_tensors: int) -> dict[str, TensorInfo]:
    """The tensors' records, with offsets still counted from the data section."""
    tensors: dict[str, TensorInfo] = {}
    for index in range(n_tensors):
        at = cursor.pos
        name = cursor.string(f"the name of tensor {index}", _MAX_NAME_BYTES)
        if not name or name in tensors:
            cursor.fail(f"tensor {index} has " + (f"the name of another, {shown(name)}" if name else "no name"), at)
        tensors[name] = _read_tensor(cursor, name)
    return tensors


def _read_tensor(cursor: HeaderCursor, name: str) -> TensorInfo:
    what, at = f"tensor {shown(name)}", cursor.pos
    n_dims = cursor.u32(f"the number of dimensions of {what}")
    if not 1 <= n_dims <= _MAX_DIMS:
        cursor.fail(f"{what} has {n_dims} dimensions, but 1 to {_MAX_DIMS} are possible", at)
    shape = tuple(cursor.u64(f"the shape of {what}") for _ in range(n_dims))
    number, offset = cursor.u32(f"the type of {what}"), cursor.u64(f"the offset of {what}")
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise UnsupportedQuant(
            f"{cursor.path}: {what} has type number {number}, which is unknown or withdrawn; quantize the model again"
        )
    if min(shape) < 1:
        cursor.fail(f"{what} has shape {list(shape)}, which holds nothing", at)
    if shape[0] % kind.block_size:
        cursor.fail(f"{what} has rows of {shape[0]}, which {kind.name} cannot cut into blocks of {kind.block_size}", at)
    n_bytes = math.prod(shape) // kind.block_size * kind.block_bytes
    if n_bytes > cursor.size:
        cursor.fail(
            f"{what} would need {n_bytes} bytes, but the file has {cursor.size}; it is truncated or damaged", at
        )
    return TensorInfo(name, shape, kind, offset, n_bytes, cursor.path)


def _place(cursor: HeaderCursor, tensors: dict[str, TensorInfo], base: int, alignment: int) -> dict[str, TensorInfo]:
    """Turn offsets into file positions; prove that they are aligned, inside the file and apart from each other."""
    placed = {name: replace(tensor, offset=base + tensor.offset) for name, tensor in tensors.items()}
    end, before = base, ""
    for tensor in sorted(placed.values(), key=lambda tensor: tensor.offset):
        what = f"tensor {shown(tensor.name)}"
        if (tensor.offset - base) % alignment:
            cursor.fail(f"{what} is not aligned to {alignment} bytes", tensor.offset)
        if tensor.offset < end:
            cursor.fail(f"{what} overlaps tensor {shown(before)}", tensor.offset)
        end, before = tensor.offset + tensor.n_bytes, tensor.name
        if end > cursor.size:
            missing = end - cursor.size
            cursor.fail(f"{what} ends {missing} bytes after the file; it is truncated or damaged", tensor.offset)
    return placed


def _split(metadata: Metadata, path: Path) -> tuple[int, int]:
    """(number, count) of the part that this file is, (0, 1) for a model in one file."""
    count = metadata.integer("split.count", 1) or 1
    index = metadata.integer("split.no", 0)
    if not (1 <= count <= _MAX_PARTS and 0 <= index < count):
        raise FormatError(f"{path}: it calls itself part {index} of {count}, which cannot be")
    return index, count
