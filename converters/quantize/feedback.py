"""GPTQ for blocks of GGUF: the scales are those that our quantizers find, and what rounding a weight to them costs is
taken back by those not yet rounded. Owns which formats that is for, and how their quants are put into blocks; the
arithmetic is `gptq`'s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer import kernels
from edgeinfer.converters.quantize.gptq import Feedback, Grid
from edgeinfer.errors import FormatError
from edgeinfer.kernels.formats.packing import bits, from_halves, from_six_bit_pairs, nibbles

__all__ = ["FED_BACK", "Feedbacks", "Inputs", "fed_back"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.int32]


class Products(Protocol):
    """X^T X, float32 ``(n_cols, n_cols)``."""

    @property
    def sums(self) -> Floats: ...


class Inputs(Protocol):
    """What the matrices of a model are fed on some text: `edgeinfer.calibrate.Hessians`."""

    def of(self, name: str) -> Products | None:
        """Of a tensor's inputs; None where it is not known."""
        ...


class Feedbacks:
    """By name of tensor. Matrices that are fed the same one after the other share the work."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._last: tuple[Products, Feedback] | None = None

    def of(self, name: str) -> Feedback | None:
        """None where nothing is known of the tensor's inputs. Raises `FormatError` where they cannot be used."""
        products = self._inputs.of(name)
        if products is None:
            return None
        if self._last is None or self._last[0] is not products:
            self._last = None  # its memory is wanted
            try:
                self._last = products, Feedback(products.sums)
            except (ValueError, np.linalg.LinAlgError) as error:
                raise FormatError(f"tensor {name}: what it is fed on the text cannot be used ({error})") from error
        return self._last[1]


def fed_back(type_name: str, rows: Floats, feedback: Feedback) -> Bytes:
    """Rows ``(n_rows, n_cols)`` as blocks of a type in `FED_BACK`, uint8 ``(n_rows, bytes of a row)``. Raises
    `UsageError` for values that it cannot hold, `BackendUnavailable` without our library."""
    grid_of, put = FED_BACK[type_name]
    blocks = kernels.quantize(type_name, rows, importance=feedback.weights)
    flat = blocks.reshape(-1, blocks.shape[1] * _BLOCK[type_name] // rows.shape[1])
    scales, offsets, block, least, greatest = grid_of(flat)
    shape = (len(rows), rows.shape[1] // block)
    grid = Grid(scales.reshape(shape), None if offsets is None else offsets.reshape(shape), block, least, greatest)
    q = feedback(rows, grid).astype(np.int32).reshape(-1, _BLOCK[type_name])
    put(flat, q - least if offsets is None else q)
    return blocks


_Grid = tuple[Floats, Floats | None, int, int, int]
"""Scales, offsets, weights under one of them, and the least and greatest q."""


def _symmetric(half: int) -> Callable[[Bytes], _Grid]:
    return lambda blocks: (from_halves(blocks[:, :2]), None, 32, -half, half - 1)


def _affine(greatest: int) -> Callable[[Bytes], _Grid]:
    return lambda blocks: (from_halves(blocks[:, :2]), from_halves(blocks[:, 2:4]), 32, 0, greatest)


def _super(greatest: int) -> Callable[[Bytes], _Grid]:
    def grid(blocks: Bytes) -> _Grid:
        d = from_halves(blocks[:, :4])
        scales, mins = from_six_bit_pairs(blocks[:, 4:16])
        return d[:, :1] * scales.astype(np.float32), -d[:, 1:] * mins.astype(np.float32), 32, 0, greatest

    return grid


def _q6_k_grid(blocks: Bytes) -> _Grid:
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return from_halves(blocks[:, 208:]) * scales, None, 16, -32, 31


def _put_4(at: int, run: int) -> Callable[[Bytes, Words], None]:
    def put(blocks: Bytes, q: Words) -> None:
        blocks[:, at:] = nibbles(q, run)

    return put


def _put_5(at: int) -> Callable[[Bytes, Words], None]:
    def put(blocks: Bytes, q: Words) -> None:
        blocks[:, at : at + 4] = bits(q >> 4)
        blocks[:, at + 4 :] = nibbles(q & 15, 16)

    return put


def _put_q5_k(blocks: Bytes, q: Words) -> None:
    blocks[:, 16:48] = bits((q >> 4).reshape(-1, 8, 32).transpose(0, 2, 1).reshape(-1, 256))
    blocks[:, 48:] = nibbles(q & 15, 32)


def _put_q6_k(blocks: Bytes, q: Words) -> None:
    pairs = (q >> 4).reshape(-1, 2, 4, 32)
    high = pairs[:, :, 0] | pairs[:, :, 1] << 2 | pairs[:, :, 2] << 4 | pairs[:, :, 3] << 6
    blocks[:, :128] = nibbles(q & 15, 64)
    blocks[:, 128:192] = high.reshape(-1, 64).astype(np.uint8)


FED_BACK: dict[str, tuple[Callable[[Bytes], _Grid], Callable[[Bytes, Words], None]]] = {
    "Q4_0": (_symmetric(8), _put_4(2, 16)),
    "Q4_1": (_affine(15), _put_4(4, 16)),
    "Q5_0": (_symmetric(16), _put_5(2)),
    "Q5_1": (_affine(31), _put_5(4)),
    "Q4_K": (_super(15), _put_4(16, 32)),
    "Q5_K": (_super(31), _put_q5_k),
    "Q6_K": (_q6_k_grid, _put_q6_k),
}
"""How the grid of blocks is read, and how quants from 0 on are put into them. Q8_0 is near enough without."""
_BLOCK = {name: 256 if name.endswith("_K") else 32 for name in FED_BACK}
