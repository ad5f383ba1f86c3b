"""How each GGUF format becomes an operand of ONNX Runtime's ``MatMulNBits`` without another rounding.

That operator keeps a row in blocks of equal steps around zero: w = scale * (q - middle), q of 4 or 8 bits, middle 8 or
128. Formats that step around zero too fit exactly. Formats whose blocks have a least value, w = d * q + m, are written
as d * (q - z) + (m + z * d): the first part fits exactly, the second is one number a block of 32, an ``offset`` to be
multiplied by the sums of 32 inputs. What is rounded may have a zero point a block instead of the middle, w = scale *
(q - zero), another operand of that operator. What a package has of a matrix is a source's too: for each form there is a
type of rows, `OWN`, which no file has. Owns these layouts; knows neither files nor graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.sources import Bytes
from edgeinfer.gguf.formats import TENSOR_TYPES
from edgeinfer.kernels.formats.packing import from_bits, from_halves, from_nibbles, from_six_bit_pairs, nibbles

__all__ = [
    "CORRECTION_BLOCK",
    "FLOATS",
    "KEPT",
    "OFFSET_STEP",
    "OWN",
    "Form",
    "Parts",
    "decoded",
    "joined",
    "own_type",
    "packed_zeros",
    "quantize_offsets",
    "restored",
    "restored_offsets",
]

Floats = npt.NDArray[np.float32]

OFFSET_STEP = 32
"""Weights under one offset."""
CORRECTION_BLOCK = 64
"""Offsets under one scale."""
FLOATS = ("F32", "F16", "BF16")
_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16)


@dataclass(frozen=True, slots=True)
class Form:
    """``bits`` of a weight, ``block`` weights under one scale, and whether offsets come with them. ``whole_rows``: a
    block is a row, as NPUs want it whose inputs are integers too; such scales are float32. ``zero_points``: blocks step
    around points of their own."""

    bits: Literal[4, 8]
    block: int
    corrected: bool = False
    whole_rows: bool = False
    zero_points: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """Rows of a matrix: ``q`` uint8 (rows, blocks, bytes of a block), ``scales`` (rows, blocks), and ``offsets``
    (rows, columns / 32) or None. Of two 4-bit weights in a byte the earlier is in the low half. ``zeros``: zero points,
    uint8 (rows, blocks), or None."""

    q: Bytes
    scales: Floats
    offsets: Floats | None = None
    zeros: Bytes | None = None


def own_type(form: Form) -> str:
    """The name of rows that `joined` makes."""
    more = "+offsets" if form.corrected else "+zeros" if form.zero_points else ""
    return f"nbits{form.bits}/{form.block}{more}"


_BITS: tuple[Literal[4, 8], ...] = (4, 8)
_BLOCKS: tuple[Literal[16, 32, 64, 128], ...] = (16, 32, 64, 128)
_OWN = [*(Form(bits, block) for bits in _BITS for block in _BLOCKS), *(Form(bits, 32, True) for bits in _BITS)]
_OWN += [Form(4, block, zero_points=True) for block in _BLOCKS[1:]]
OWN: dict[str, Form] = {own_type(form): form for form in _OWN}
"""Types of rows whose blocks are a form's parts one after the other: weights, scale, offset or zero point."""

KEPT: dict[str, Form] = {
    "Q4_0": Form(4, 32),
    "Q4_1": Form(4, 32, corrected=True),
    "Q5_0": Form(8, 32),
    "Q5_1": Form(8, 32, corrected=True),
    "Q8_0": Form(8, 32),
    "Q4_K": Form(4, 32, corrected=True),
    "Q5_K": Form(8, 32, corrected=True),
    "Q6_K": Form(8, 16),
    "IQ4_NL": Form(8, 32),
    **OWN,
}
"""What each format becomes; formats that are not here cannot be kept."""


def decoded(type_name: str, rows: Bytes) -> Parts:
    """The parts of rows of blocks, uint8 ``(rows, row_bytes)``, of a type in `KEPT`."""
    if type_name in OWN:
        return _parted(OWN[type_name], rows)
    kind = next(kind for kind in TENSOR_TYPES.values() if kind.name == type_name)
    form, n_rows = KEPT[type_name], len(rows)
    q, scales, offsets = _DECODERS[type_name](rows.reshape(-1, kind.block_bytes))
    n_cols = rows.shape[1] // kind.block_bytes * kind.block_size
    q = q.reshape(n_rows, n_cols // form.block, form.block * form.bits // 8)
    parts = Parts(q, scales.reshape(n_rows, -1).astype(np.float32, copy=False))
    return parts if offsets is None else Parts(q, parts.scales, offsets.reshape(n_rows, -1))


def joined(parts: Parts) -> Bytes:
    """Rows, uint8 ``(rows, row_bytes)``, of which `decoded` makes the parts again."""
    kept = [parts.q, _as_bytes(parts.scales)]
    kept += [] if parts.offsets is None else [_as_bytes(parts.offsets)]
    kept += [] if parts.zeros is None else [parts.zeros[..., None]]
    return np.concatenate(kept, axis=2).reshape(len(parts.q), -1)


def restored(type_name: str, rows: Bytes) -> Floats:
    """What rows of a type in `OWN` stand for, ``(rows, columns)``."""
    form, parts = OWN[type_name], _parted(OWN[type_name], rows)
    q = parts.q if form.bits == 8 else np.stack([parts.q & 15, parts.q >> 4], axis=-1).reshape(*parts.scales.shape, -1)
    middle = np.float32(1 << (form.bits - 1)) if parts.zeros is None else parts.zeros[..., None].astype(np.float32)
    weights: Floats = (q.astype(np.float32) - middle) * parts.scales[..., None]
    if parts.offsets is not None:
        weights += parts.offsets[..., None]
    made: Floats = weights.reshape(len(rows), -1)
    return made


def _as_bytes(floats: Floats) -> Bytes:
    return np.ascontiguousarray(floats, "<f4")[..., None].view(np.uint8)


def _parted(form: Form, rows: Bytes) -> Parts:
    n_bytes = form.block * form.bits // 8
    end = n_bytes + (8 if form.corrected else 4)
    blocks = rows.reshape(len(rows), -1, end + form.zero_points)
    floats = np.ascontiguousarray(blocks[..., n_bytes:end]).view("<f4")
    zeros = blocks[..., end] if form.zero_points else None
    return Parts(blocks[..., :n_bytes], floats[..., 0], floats[..., 1] if form.corrected else None, zeros)


def packed_zeros(zeros: Bytes) -> Bytes:
    """Zero points ``(rows, blocks)`` of 4 bits as the operator has them: two in a byte, the earlier in its low half,
    ``(rows, ceil(blocks / 2))``; what is left of a row's last byte is 0."""
    even = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return nibbles(even.astype(np.int32), 1)


def quantize_offsets(offsets: Floats, block: int) -> tuple[Bytes, Floats]:
    """Offsets ``(rows, n)`` in 8 bits around 128, ``(rows, n)``, and a scale for each ``block`` of them,
    ``(rows, ceil(n / block))``."""
    n_rows, n = offsets.shape
    blocks = np.pad(offsets, ((0, 0), (0, -n % block))).reshape(n_rows, -1, block)
    scales = np.abs(blocks).max(axis=2) / np.float32(127)
    divisors = np.where(scales == 0, np.float32(1), scales)
    q = np.rint(blocks / divisors[..., None]).astype(np.int16) + 128
    return q.reshape(n_rows, -1)[:, :n].astype(np.uint8), scales


def restored_offsets(q: Bytes, scales: Floats, block: int) -> Floats:
    """What `quantize_offsets` made of offsets."""
    spread = np.repeat(scales, block, axis=1)[:, : q.shape[1]]
    return (q.astype(np.float32) - 128) * spread


_Decoded = tuple[Bytes, Floats, Floats | None]


def _repacked(data: Bytes, run: int) -> Bytes:
    """GGUF's nibbles to ONNX's. Of each ``run`` bytes GGUF keeps ``run`` weights in the low halves and the ``run`` that
    follow in the high ones; ONNX keeps neighbours in one byte."""
    pairs = np.ascontiguousarray(data).view("<u2").reshape(-1, run // 2)
    low = (pairs & 0x0F) | (pairs >> 4 & 0xF0)
    high = (pairs >> 4 & 0x0F) | (pairs >> 8 & 0xF0)
    return np.concatenate([low, high], axis=1).astype(np.uint8)


def _q4_0(blocks: Bytes) -> _Decoded:
    return _repacked(blocks[:, 2:], 16), from_halves(blocks[:, :2]), None


def _q4_1(blocks: Bytes) -> _Decoded:
    d, m = from_halves(blocks[:, :2]), from_halves(blocks[:, 2:4])
    return _repacked(blocks[:, 4:], 16), d, m + 8 * d


def _five_bits(low: Bytes, high: Bytes) -> Bytes:
    """Weights of 0 to 31 as 112 to 143: 128 stands for their middle, 16."""
    q: Bytes = (from_nibbles(low, 16) | from_bits(high) << 4).astype(np.uint8) + np.uint8(112)
    return q


def _q5_0(blocks: Bytes) -> _Decoded:
    return _five_bits(blocks[:, 6:], blocks[:, 2:6]), from_halves(blocks[:, :2]), None


def _q5_1(blocks: Bytes) -> _Decoded:
    d, m = from_halves(blocks[:, :2]), from_halves(blocks[:, 2:4])
    return _five_bits(blocks[:, 8:], blocks[:, 4:8]), d, m + 16 * d


def _q8_0(blocks: Bytes) -> _Decoded:
    return blocks[:, 2:] ^ np.uint8(128), from_halves(blocks[:, :2]), None


def _scale_min(blocks: Bytes) -> tuple[Floats, Floats]:
    """d * scale and -dmin * min of the eight sub-blocks of Q4_K and Q5_K."""
    d = from_halves(blocks[:, :4])
    scales, mins = from_six_bit_pairs(blocks[:, 4:16])
    return d[:, :1] * scales.astype(np.float32), -d[:, 1:] * mins.astype(np.float32)


def _q4_k(blocks: Bytes) -> _Decoded:
    step, least = _scale_min(blocks)
    return _repacked(blocks[:, 16:], 32), step, least + 8 * step


def _q5_k(blocks: Bytes) -> _Decoded:
    step, least = _scale_min(blocks)
    high = np.unpackbits(np.ascontiguousarray(blocks[:, 16:48]).reshape(-1, 32, 1), axis=2, bitorder="little")
    low = blocks[:, 48:].reshape(-1, 4, 32)
    nibbles = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 8, 32)
    q = (nibbles | high.transpose(0, 2, 1) << 4) + np.uint8(112)
    return q, step, least + 16 * step


def _q6_k(blocks: Bytes) -> _Decoded:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    pairs = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=2)
    nibbles = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    q = (nibbles | pairs << 4) + np.uint8(96)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return q, from_halves(blocks[:, 208:]) * scales, None


def _iq4_nl(blocks: Bytes) -> _Decoded:
    steps = (_IQ4_NL + 128).astype(np.uint8)
    return steps[from_nibbles(blocks[:, 2:], 16)], from_halves(blocks[:, :2]), None


_DECODERS: dict[str, Callable[[Bytes], _Decoded]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
}
