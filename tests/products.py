"""Matrix products through the kernels' C interface, in any pieces, with a guard behind every buffer."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.gguf.formats import TENSOR_TYPES
from edgeinfer.kernels import library

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_NAMES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q4_K", "Q5_K", "Q6_K")
FORMATS = {kind.name: kind.id for kind in TENSOR_TYPES.values() if kind.name in _NAMES}
_GUARD = 0xA5


@functools.cache
def bound(name: str) -> Callable[..., int]:
    """A function of the library. A handle of our own, since its signatures are no business of the package's."""
    i32, i64, size, at = ctypes.c_int32, ctypes.c_int64, ctypes.c_size_t, ctypes.c_void_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ei_isa_name": (ctypes.c_char_p, [i32]),
        "ei_packed_bytes": (size, [i32, i64, i64]),
        "ei_n_panels": (i64, [i64]),
        "ei_pack": (None, [i32, at, size, i64, i64, at, i64, i64]),
        "ei_activation_bytes": (size, [i32, i64, i64]),
        "ei_n_quantize_items": (i64, [i32, i64, i64]),
        "ei_quantize": (None, [i32, i32, at, size, i64, i64, at, i64, i64]),
        "ei_matmul": (None, [i32, i32, at, i64, i64, at, i64, at, size, i64, i64]),
    }
    function: Callable[..., int] = getattr(ctypes.CDLL(library.load()._name), name)
    setattr(function, "restype", signatures[name][0])  # noqa: B010 - a ctypes function, typed as what it answers
    setattr(function, "argtypes", signatures[name][1])  # noqa: B010
    return function


def isas() -> dict[str, int]:
    """The instruction sets of this machine and their numbers; scalar first."""
    return {name: library.isa_number(name) for name in library.capabilities()}


class Buffer:
    """Memory at a multiple of 64, full of garbage, with a guard behind it."""

    def __init__(self, n_bytes: int) -> None:
        memory = np.full(n_bytes + 192, _GUARD, np.uint8)
        begin = -memory.ctypes.data % 64
        self.bytes: Bytes = memory[begin : begin + n_bytes]
        self._guard = memory[begin + n_bytes : begin + n_bytes + 64]

    @property
    def address(self) -> int:
        return self.bytes.ctypes.data

    def check(self) -> None:
        assert (self._guard == _GUARD).all(), "written past the end"


@dataclass(frozen=True)
class Matrix:
    """Rows as they lie in a file: ``rows`` has a row of bytes for each."""

    format: str
    n_cols: int
    rows: Bytes

    @property
    def n_rows(self) -> int:
        return len(self.rows)


def ranges(n: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """[0, n) cut at ``cuts``, as (first, count)."""
    ends = sorted({cut % (n + 1) for cut in cuts} | {0, n})
    return [(a, b - a) for a, b in itertools.pairwise(ends)]


def pack(matrix: Matrix, cuts: Sequence[int] = ()) -> Buffer:
    """Panels, written in the pieces that ``cuts`` make."""
    type_id, (n_rows, row_bytes) = FORMATS[matrix.format], matrix.rows.shape
    packed = Buffer(bound("ei_packed_bytes")(type_id, n_rows, matrix.n_cols))
    source = np.ascontiguousarray(matrix.rows)
    for first, count in ranges(bound("ei_n_panels")(n_rows), cuts):
        bound("ei_pack")(type_id, source.ctypes.data, row_bytes, n_rows, matrix.n_cols, packed.address, first, count)
    packed.check()
    return packed


def product(
    matrix: Matrix, packed: Buffer, x: Floats, isa: int, *, column_cuts: Sequence[int] = (), cuts: Sequence[int] = ()
) -> Floats:
    """``x @ W.T``, shape (M, n_rows). Columns go in separate calls where ``column_cuts`` say; activations are
    quantized, and panels multiplied, in the pieces that ``cuts`` make."""
    type_id, n_cols, n_rows = FORMATS[matrix.format], matrix.n_cols, matrix.n_rows
    wide = np.full((len(x), n_cols + 3), np.nan, np.float32)  # columns need not lie close together, nor results
    wide[:, :n_cols] = x
    out = np.full((len(x), n_rows + 5), -77.0, np.float32)
    for begin, m in ranges(len(x), column_cuts):
        activations = Buffer(bound("ei_activation_bytes")(type_id, n_cols, m))
        for first, count in ranges(bound("ei_n_quantize_items")(type_id, n_cols, m), cuts):
            columns = wide[begin:].ctypes.data
            bound("ei_quantize")(isa, type_id, columns, n_cols + 3, n_cols, m, activations.address, first, count)
        activations.check()
        for first, count in ranges(bound("ei_n_panels")(n_rows), cuts):
            y = out[begin:].ctypes.data
            where = (packed.address, n_rows, n_cols, activations.address, m, y, n_rows + 5, first, count)
            bound("ei_matmul")(isa, type_id, *where)
    assert (out[:, n_rows:] == -77.0).all(), "written past the rows"
    return np.ascontiguousarray(out[:, :n_rows])


def same_bits(a: Floats, b: Floats) -> bool:
    """Bit for bit, but that one NaN is as good as another."""
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())
