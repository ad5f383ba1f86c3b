"""What the plug-in packs while a model loads, and from which image of an earlier load it may take it.

Mirrors ``ei_packed_load`` of ``edgeinfer_kernels.h``. Knows nothing of files' names and of how images are written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from edgeinfer.kernels import library

__all__ = ["Buffer", "Image", "Recording", "Weight", "layout", "recording"]

_MOST_WEIGHTS, _MOST_BUFFERS = 16384, 64


@dataclass(frozen=True, slots=True)
class Weight:
    """A packed weight: ``name`` and ``shape`` as ggml has them, ``offset`` and ``n_bytes`` within a buffer."""

    name: bytes
    type_id: int
    buffer: int
    shape: tuple[int, int, int]
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Image:
    """The buffers of an earlier load in an open file: (bytes, offset in the file) of each, and the weights in them."""

    descriptor: int
    buffers: Sequence[tuple[int, int]]
    weights: Sequence[Weight]


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer of a load. ``address`` is readable as long as the model lives; ``mapped``: it is a mapping of the
    image."""

    address: int
    n_bytes: int
    mapped: bool


@dataclass(slots=True)
class Recording:
    """A load, filled in when it is over. ``n_found``: weights that the image had. ``whole``: all of it was recorded."""

    buffers: list[Buffer] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    n_found: int = 0
    whole: bool = True


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 64),
        ("type", ctypes.c_int32),
        ("buffer", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 3),
        ("offset", ctypes.c_uint64),
        ("n_bytes", ctypes.c_uint64),
    )


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("base", ctypes.c_void_p),
        ("n_bytes", ctypes.c_uint64),
        ("file_offset", ctypes.c_uint64),
        ("mapped", ctypes.c_int64),
    )


class _Load(ctypes.Structure):
    _fields_ = (
        ("image_buffers", ctypes.POINTER(_Buffer)),
        ("image_tensors", ctypes.POINTER(_Tensor)),
        ("n_image_tensors", ctypes.c_int64),
        ("n_image_buffers", ctypes.c_int32),
        ("image_file", ctypes.c_int32),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("tensors", ctypes.POINTER(_Tensor)),
        ("most_tensors", ctypes.c_int64),
        ("n_tensors", ctypes.c_int64),
        ("n_found", ctypes.c_int64),
        ("most_buffers", ctypes.c_int32),
        ("n_buffers", ctypes.c_int32),
    )


@contextmanager
def recording(image: Image | None = None) -> Iterator[Recording]:
    """Around the load of a model, on the thread that loads: what is packed meanwhile, or found in ``image``, whose file
    may be closed afterwards. Raises `BackendUnavailable` without the library."""
    kernels, found = library.load(), Recording()
    buffers, tensors = (_Buffer * _MOST_BUFFERS)(), (_Tensor * _MOST_WEIGHTS)()
    load = _Load(buffers=buffers, tensors=tensors, most_tensors=_MOST_WEIGHTS, most_buffers=_MOST_BUFFERS)
    if image is not None:
        load.image_buffers = (_Buffer * len(image.buffers))(
            *(_Buffer(None, n, offset, 0) for n, offset in image.buffers)
        )
        load.image_tensors = (_Tensor * len(image.weights))(*(_as_c(weight) for weight in image.weights))
        load.n_image_buffers, load.n_image_tensors = len(image.buffers), len(image.weights)
        load.image_file = image.descriptor
    kernels.ei_ggml_load(ctypes.addressof(load))
    try:
        yield found
    finally:
        kernels.ei_ggml_load(None)
    n_buffers, n_tensors = min(load.n_buffers, _MOST_BUFFERS), min(load.n_tensors, _MOST_WEIGHTS)
    found.whole = (n_buffers, n_tensors) == (load.n_buffers, load.n_tensors)
    found.buffers = [Buffer(b.base, b.n_bytes, bool(b.mapped)) for b in buffers[:n_buffers]]
    found.weights = [_from_c(t) for t in tensors[:n_tensors]]
    found.n_found = load.n_found


def _as_c(weight: Weight) -> _Tensor:
    shape = (ctypes.c_int64 * 3)(*weight.shape)
    return _Tensor(weight.name, weight.type_id, weight.buffer, shape, weight.offset, weight.n_bytes)


def _from_c(tensor: _Tensor) -> Weight:
    shape = (tensor.shape[0], tensor.shape[1], tensor.shape[2])
    return Weight(tensor.name, tensor.type, tensor.buffer, shape, tensor.offset, tensor.n_bytes)


def layout() -> bytes:
    """What a fixed pattern looks like when it is packed, in every format: other bytes mean another layout. Raises
    `BackendUnavailable` without the library."""
    kernels = library.load()
    packed = b""
    for type_id in range(64):
        block = next((n for n in (1, 32, 256) if kernels.ei_has_matmul(type_id, n)), None)
        if block is None:
            continue
        # A run of blocks and a part of one, a panel of rows and a part of one.
        n_rows, n_cols = 20, 12 * block
        row_bytes = kernels.ei_packed_bytes(type_id, 16, n_cols) // 16
        rows = (np.arange(n_rows * row_bytes, dtype=np.uint32) * np.uint32(0x9E3779B1) >> 24).astype(np.uint8)
        memory = ctypes.create_string_buffer(kernels.ei_packed_bytes(type_id, n_rows, n_cols) + 64)
        aligned = -(-ctypes.addressof(memory) // 64) * 64
        kernels.ei_pack(type_id, rows.ctypes.data, row_bytes, n_rows, n_cols, aligned, 0, kernels.ei_n_panels(n_rows))
        begin = aligned - ctypes.addressof(memory)
        packed += memory.raw[begin : begin + kernels.ei_packed_bytes(type_id, n_rows, n_cols)]
    return packed
