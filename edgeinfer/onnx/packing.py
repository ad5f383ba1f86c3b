"""The matrices of a package, packed for our kernels: found in the image of an earlier time, or rebuilt to GGUF blocks
and packed. Knows where weights lie and what they are called; no node."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinfer import kernels, packed
from edgeinfer.errors import UnsupportedModel
from edgeinfer.gguf.formats import TENSOR_TYPES
from edgeinfer.kernels import library
from edgeinfer.kernels.formats.packing import from_nibbles
from edgeinfer.kernels.recording import Buffer, Image, Recording, Weight
from edgeinfer.onnx import blocks
from edgeinfer.onnx.blocks import Operands, Unfit
from edgeinfer.onnx.initializers import Initializers
from edgeinfer.onnx.products import Product

__all__ = ["PackedMatrices", "PackedMatrix", "pack"]

Bytes = npt.NDArray[np.uint8]

_IDS = {kind.name: kind for kind in TENSOR_TYPES.values()}
_ALIGNMENT = 64
_PANEL_ROWS = 16
_PIECE_BYTES = 4 << 20
_OFFSET_STEP = 32
_LONGEST_NAME = 63


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """``type_name``: the GGUF format that its panels were packed from. ``data`` is not to be changed. ``rounded``:
    scales were, because the format keeps them in half precision and they are not."""

    type_name: str
    data: Bytes
    rounded: bool = False

    @property
    def type_id(self) -> int:
        return _IDS[self.type_name].id


class PackedMatrices:
    """By the weights' names. ``mapped``: they are pages of a file. ``notice``: a line for the user, or nothing. The
    arrays are readable as long as this lives; `close` ends the copying to a file that may be going on."""

    def __init__(self, matrices: Mapping[str, PackedMatrix], weights: packed.PackedWeights) -> None:
        self._matrices, self._weights = matrices, weights
        self.mapped = weights.mapped
        n = sum(matrix.rounded for matrix in matrices.values())
        rounded = f"{n} weights have scales that our kernels keep in half precision: they were rounded" if n else ""
        self.notice = "; ".join(line for line in (weights.notice, rounded) if line)

    def __getitem__(self, weight: str) -> PackedMatrix:
        return self._matrices[weight]

    def close(self) -> None:
        self._weights.close()


def pack(folder: Path, products: Sequence[Product], weights: Initializers, types: Mapping[str, str]) -> PackedMatrices:
    """All matrices of the package at ``folder``. ``types``: the GGUF types that they had in the source.

    Raises `UnsupportedModel` for one that no format of ours has the weights of, `FormatError` for one that is not as
    its product says, `BackendUnavailable` without the library.
    """
    wanted = {product.weight: product for product in products}
    matrices: dict[str, PackedMatrix] = {}
    with packed.packing(folder) as packing:
        found = _mapped(packing.image) if packing.image else {}
        for name, product in wanted.items():
            old = found.get(_stored_name(name))
            if old is not None and _suits(old, product, types.get(name, "")):
                matrices[name] = PackedMatrix(TENSOR_TYPES[old[0].type_id].name, old[1])
                packing.load.n_found += 1
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="edgeinfer-pack") as pool:
            for name, product in wanted.items():
                if name not in matrices:
                    matrices[name] = _packed(product, weights, types.get(name, ""), pool)
        for name, product in wanted.items():
            _record(packing.load, name, product, matrices[name])
    return PackedMatrices(matrices, packing.weights)


# ---- what was packed before


def _stored_name(name: str) -> bytes:
    return name.encode()[:_LONGEST_NAME]


def _mapped(image: Image) -> dict[bytes, tuple[Weight, Bytes]]:
    """The image's weights, over a private mapping of its file."""
    size = os.fstat(image.descriptor).st_size
    memory = np.frombuffer(mmap.mmap(image.descriptor, size, access=mmap.ACCESS_COPY), np.uint8)
    found = {}
    for weight in image.weights:
        begin = image.buffers[weight.buffer][1] + weight.offset
        found[weight.name] = weight, memory[begin : begin + weight.n_bytes]
    return found


def _suits(old: tuple[Weight, Bytes], product: Product, type_name: str) -> bool:
    """Whether what the image has is what would be packed."""
    weight, data = old
    kind = TENSOR_TYPES.get(weight.type_id)
    if kind is None or kind.name not in _candidates(product, type_name) or data.ctypes.data % _ALIGNMENT:
        return False
    same = weight.shape == (product.n_cols, product.n_rows, 1)
    return same and weight.n_bytes == _packed_bytes(kind.id, product.n_rows, product.n_cols)


def _record(load: Recording, name: str, product: Product, matrix: PackedMatrix) -> None:
    shape = (product.n_cols, product.n_rows, 1)
    load.weights.append(Weight(_stored_name(name), matrix.type_id, len(load.buffers), shape, 0, matrix.data.size))
    load.buffers.append(Buffer(matrix.data.ctypes.data, matrix.data.size, mapped=False))


# ---- packing


def _packed_bytes(type_id: int, n_rows: int, n_cols: int) -> int:
    return int(library.load().ei_packed_bytes(type_id, n_rows, n_cols))


def _candidates(product: Product, type_name: str) -> tuple[str, ...]:
    if product.bits == 32:
        return ("F32", "F16", "BF16")
    form = product.bits, product.block, product.correction > 0, product.zero_points
    return blocks.candidates(type_name, *form)


def _packed(product: Product, weights: Initializers, type_name: str, pool: ThreadPoolExecutor) -> PackedMatrix:
    """In the first format that has these weights."""
    if product.bits == 32:
        return _fill(weights.float_type(product.weight), product, _float_rows(product, weights), pool)
    reasons = []
    known = [name for name in _candidates(product, type_name) if kernels.has_matmul(_IDS[name].id, product.n_cols)]
    # Exactly if it can be; a scale for each block holds what no common one does, within the rounding to half precision.
    roundable = [name for name in known if product.zero_points or name in blocks.ROUNDABLE]
    attempts = [(name, False) for name in known] + [(name, True) for name in roundable]
    for name, rounded in attempts:
        try:
            made = _fill(name, product, _block_rows(name, product, weights, rounded), pool)
            return replace(made, rounded=rounded or (product.correction > 0 and name != known[0]))
        except Unfit as error:
            reasons.append(f"{name}: {error}")
    raise UnsupportedModel(
        f"weight {product.weight!r} fits no format of our kernels ({'; '.join(reasons) or 'none has its form'})"
    )


Rows = Callable[[int, int], Bytes]
"""Rows [first, last) of a matrix as they lie in a GGUF file, uint8 (rows, bytes of a row), contiguous."""


def _fill(type_name: str, product: Product, rows: Rows, pool: ThreadPoolExecutor) -> PackedMatrix:
    """Pack all rows, in pieces of whole panels. Raises what ``rows`` raises."""
    ours, kind = library.load(), _IDS[type_name]
    n_rows, n_cols = product.n_rows, product.n_cols
    memory = np.empty(_packed_bytes(kind.id, n_rows, n_cols) + _ALIGNMENT, np.uint8)
    data = memory[-memory.ctypes.data % _ALIGNMENT :][: memory.size - _ALIGNMENT]
    panel_bytes = _packed_bytes(kind.id, _PANEL_ROWS, n_cols)

    def work(piece: tuple[int, int]) -> None:
        first, last = piece
        from_file = rows(first, last)
        to = data.ctypes.data + first // _PANEL_ROWS * panel_bytes
        n_panels = ours.ei_n_panels(last - first)
        ours.ei_pack(kind.id, from_file.ctypes.data, from_file.shape[1], last - first, n_cols, to, 0, n_panels)

    for _ in pool.map(work, _pieces(n_rows, n_cols)):
        pass
    return PackedMatrix(type_name, data)


def _pieces(n_rows: int, n_cols: int) -> Iterator[tuple[int, int]]:
    step = max(1, _PIECE_BYTES // max(1, n_cols * _PANEL_ROWS)) * _PANEL_ROWS
    return ((first, min(n_rows, first + step)) for first in range(0, n_rows, step))


def _float_rows(product: Product, weights: Initializers) -> Rows:
    dtype = "<f4" if weights.float_type(product.weight) == "F32" else "<u2"
    if weights.float_type(product.weight) == "F16":
        dtype = "<f2"
    values = weights.array(product.weight, dtype, (product.n_rows, product.n_cols))
    return lambda first, last: np.ascontiguousarray(values[first:last]).view(np.uint8)


def _block_rows(type_name: str, product: Product, weights: Initializers, rounded: bool) -> Rows:
    name, n_rows, block = product.weight, product.n_rows, product.block
    n_blocks = -(-product.n_cols // block)
    q = weights.array(f"{name}.q", np.uint8, (n_rows, n_blocks, block * product.bits // 8))
    scales = weights.array(f"{name}.scales", np.float32, (n_rows, n_blocks))
    offsets = _offsets(product, weights) if product.correction else None
    zeros = weights.array(f"{name}.zeros", np.uint8, (n_rows, -(-n_blocks // 2))) if product.zero_points else None

    def rows(first: int, last: int) -> Bytes:
        cut = slice(first, last)
        spread, doubt = offsets(cut) if offsets else (None, None)
        points = None if zeros is None else from_nibbles(np.asarray(zeros[cut]), 1)[:, :n_blocks]
        parts = np.asarray(q[cut]), np.asarray(scales[cut]), spread, doubt, points
        operands = Operands(product.bits, block, *parts)
        return np.ascontiguousarray(blocks.rebuild(type_name, operands, rounded=rounded))

    return rows


def _offsets(product: Product, weights: Initializers) -> Callable[[slice], tuple[blocks.Floats, blocks.Floats]]:
    """Offsets of some rows, and how far each may be from what it was before it was rounded to 8 bits."""
    n = product.n_cols // _OFFSET_STEP
    name, n_scales = f"{product.weight}.correction", -(-n // product.correction)
    q = weights.array(f"{name}.q", np.uint8, (product.n_rows, n))
    scales = weights.array(f"{name}.scales", np.float32, (product.n_rows, n_scales))

    def some(rows: slice) -> tuple[blocks.Floats, blocks.Floats]:
        spread = np.repeat(np.asarray(scales[rows]), product.correction, axis=1)[:, :n]
        steps = np.asarray(q[rows]).astype(np.float32) - np.float32(128)
        # Half a step, and a little for the rounding of the quotient.
        return steps * spread, np.abs(spread) * np.float32(0.5001)

    return some
