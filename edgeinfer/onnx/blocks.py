"""GGUF blocks from the operands of ``MatMulNBits``: the way back of what the converter did, so that our kernels, which
are packed from GGUF blocks, multiply with the very same weights.

    4 bits, blocks of 32                 Q4_0
    8 bits, blocks of 32                 Q5_0, Q8_0, IQ4_NL
    8 bits, blocks of 16                 Q6_K
    4 bits, blocks of 32, and offsets    Q4_K, or Q4_1 where the scales are not those of super-blocks
    8 bits, blocks of 32, and offsets    Q5_K, Q5_1

A super-block's scales are products of a half-precision number and small integers, exact in single precision: one of the
integers that the greatest can be gives all of them back. Offsets were rounded to 8 bits on the way; the least values
that they come from are half-precision numbers and small integers too, and those found are within that rounding. Owns
these layouts; knows neither files nor graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.kernels.formats.packing import bits, half_precision, halves, nibbles, six_bit_pairs

__all__ = ["Operands", "Unfit", "candidates", "rebuild"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.int32]

_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16)


class Unfit(Exception):
    """The operands are not those of the format that was asked for."""


@dataclass(frozen=True, slots=True)
class Operands:
    """Rows of a matrix. ``q`` uint8 (rows, blocks, bytes of a block), of two 4-bit weights in a byte the earlier in the
    low half; ``scales`` float32 (rows, blocks); ``offsets`` float32 (rows, columns / 32) or None, each at most
    ``doubt``, of the same shape, from what it was before it was rounded."""

    bits: int
    block: int
    q: Bytes
    scales: Floats
    offsets: Floats | None = None
    doubt: Floats | None = None


def candidates(type_name: str, n_bits: int, block: int, corrected: bool) -> tuple[str, ...]:
    """The formats that a matrix of this form can be rebuilt in, the best first; ``type_name``: what it was in the
    source. Empty for a form that no GGUF format has."""
    known = _FORMS.get((n_bits, block, corrected), ())
    return tuple(sorted(known, key=lambda name: name != type_name))


def rebuild(type_name: str, rows: Operands) -> Bytes:
    """Blocks of that format, uint8 (rows, bytes of a row). Raises `Unfit`."""
    n_rows = len(rows.q)
    if not np.isfinite(rows.scales).all():
        raise Unfit("scales that are not numbers")
    return _BUILDERS[type_name](rows).reshape(n_rows, -1)


# ---- blocks of 32 without offsets


def _half(scales: Floats) -> Bytes:
    """Scales as halves, ``(n, 2)`` bytes. Raises `Unfit` where one is not a half-precision number."""
    flat = scales.reshape(-1, 1)
    if not np.array_equal(half_precision(flat), flat):
        raise Unfit("scales that are not of half precision")
    return halves(flat)


def _low_halves(q: Bytes) -> Bytes:
    """ONNX's nibbles, neighbours in a byte, to GGUF's of 32: weights j and j + 16 in byte j."""
    first, second = q[:, :8], q[:, 8:]
    out = np.empty_like(q)
    out[:, 0::2] = first & 15 | second << 4
    out[:, 1::2] = first >> 4 | second & 0xF0
    return out


def _q4_0(rows: Operands) -> Bytes:
    return np.hstack([_half(rows.scales), _low_halves(rows.q.reshape(-1, 16))])


def _q8_0(rows: Operands) -> Bytes:
    return np.hstack([_half(rows.scales), rows.q.reshape(-1, 32) ^ np.uint8(128)])


def _five(q: Bytes) -> tuple[Bytes, Bytes]:
    """Weights stored as 112 to 143: the low four bits of 32 in GGUF's order, and the fifth of each. Raises `Unfit` for
    others."""
    plain = q.reshape(-1, 32) - np.uint8(112)
    if plain.size and plain.max() > 31:
        raise Unfit("weights of more than 5 bits")
    low = plain & 15
    return low[:, :16] | low[:, 16:] << 4, np.packbits(plain >> 4, axis=1, bitorder="little")


def _q5_0(rows: Operands) -> Bytes:
    low, high = _five(rows.q)
    return np.hstack([_half(rows.scales), high, low])


def _iq4_nl(rows: Operands) -> Bytes:
    places = np.full(256, 255, np.uint8)
    places[_IQ4_NL + 128] = np.arange(16)
    codes = places[rows.q.reshape(-1, 32)]
    if (codes == 255).any():
        raise Unfit("weights that are none of the format's sixteen")
    return np.hstack([_half(rows.scales), codes[:, :16] | codes[:, 16:] << 4])


# ---- blocks of 32 with a least value


def _least(rows: Operands, middle: int) -> tuple[Floats, Floats]:
    """m of x = d * q + m, ``(n, 1)`` each: of the offsets, which are m + middle * d, and what they may be off by."""
    if rows.offsets is None or rows.doubt is None:
        raise Unfit("no offsets")
    m = rows.offsets.reshape(-1, 1) - np.float32(middle) * rows.scales.reshape(-1, 1)
    return m, rows.doubt.reshape(-1, 1)


def _rounded_least(rows: Operands, middle: int) -> Bytes:
    m, _ = _least(rows, middle)
    if np.abs(m).max(initial=0) > 65504:
        raise Unfit("least values beyond half precision")
    return halves(m)


def _q4_1(rows: Operands) -> Bytes:
    return np.hstack([halves(rows.scales.reshape(-1, 1)), _rounded_least(rows, 8), _low_halves(rows.q.reshape(-1, 16))])


def _q5_1(rows: Operands) -> Bytes:
    low, high = _five(rows.q)
    return np.hstack([halves(rows.scales.reshape(-1, 1)), _rounded_least(rows, 16), high, low])


# ---- super-blocks of 256


def _super_blocks(rows: Operands, n: int) -> Floats:
    """Scales by super-block, ``(super-blocks, n)``."""
    if rows.scales.shape[1] % n:
        raise Unfit("rows that are not whole super-blocks")
    return np.ascontiguousarray(rows.scales).reshape(-1, n)


def _common_scale(scales: Floats, highest: list[int]) -> tuple[Floats, Words]:
    """Scales ``(n, s)`` as d ``(n, 1)`` of half precision times integers ``(n, s)``; ``highest``: what the integer of
    the greatest can be, the likeliest first. Raises `Unfit` where there is none for all."""
    least, most = min(highest), max(highest)
    d, factors = np.zeros((len(scales), 1), np.float32), np.zeros(scales.shape, np.int32)
    left = np.flatnonzero(scales.any(axis=1))
    for top in highest:
        part = scales[left]
        greatest = np.take_along_axis(part, np.abs(part).argmax(axis=1)[:, None], axis=1)
        step = half_precision(greatest / np.float32(top))
        with np.errstate(divide="ignore", invalid="ignore"):
            whole = np.rint(part / step)
        right = (step[:, 0] != 0) & (whole * step == part).all(axis=1) & (whole >= least).all(axis=1)
        right &= np.isfinite(step[:, 0]) & (whole <= most).all(axis=1)
        d[left[right]], factors[left[right]] = step[right], whole[right].astype(np.int32)
        left = left[~right]
        if not left.size:
            return d, factors
    raise Unfit("scales that have no common step")


_SIGNED = [top for n in range(128, 0, -1) for top in ((-n, n) if n < 128 else (-128,))]
_UNSIGNED = list(range(63, 0, -1))
_TINY = np.float32(2.0**-24)
_LARGEST_HALF, _LAST_HALF = np.float32(65504), 0x7BFF
_REFINEMENTS, _NEIGHBOURS = 3, 24


def _q6_k(rows: Operands) -> Bytes:
    d, factors = _common_scale(_super_blocks(rows, 16), _SIGNED)
    q = rows.q.reshape(-1, 256) - np.uint8(96)
    if q.size and q.max() > 63:
        raise Unfit("weights of more than 6 bits")
    low, pairs = (q & 15).reshape(-1, 2, 2, 64), (q >> 4).reshape(-1, 2, 4, 32)
    low = (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)
    high = pairs[:, :, 0] | pairs[:, :, 1] << 2 | pairs[:, :, 2] << 4 | pairs[:, :, 3] << 6
    return np.hstack([low, high.reshape(-1, 64), factors.astype(np.int8).view(np.uint8), halves(d)])


def _mins(least: Floats, doubt: Floats) -> tuple[Floats, Words]:
    """Least values ``(n, 8)`` as -dmin ``(n, 1)`` of half precision times integers below 64, each within ``doubt``.

    Tried is every integer that the greatest can have been, the likeliest first; the first that suits all has it. What
    does not come out at once, because a doubtful greatest made integers of others wrong, is sought among all numbers
    near by. Raises `Unfit` where nothing suits.
    """
    wanted = -least
    dmin, factors = np.zeros((len(wanted), 1), np.float32), np.zeros(wanted.shape, np.int32)
    left = np.flatnonzero((np.abs(wanted) > doubt).any(axis=1))
    for search in (_by_all, _by_neighbours):
        for top in _UNSIGNED:
            if not left.size:
                return dmin, factors
            step, whole, fits = search(wanted[left], doubt[left], top)
            dmin[left[fits]], factors[left[fits]] = step[fits], whole[fits].astype(np.int32)
            left = left[~fits]
    if left.size:
        raise Unfit("least values that have no common step")
    return dmin, factors


_Found = tuple[Floats, Floats, npt.NDArray[np.bool_]]
"""Steps ``(n, 1)``, integers ``(n, 8)``, and which of the n fit."""


def _by_all(wanted: Floats, doubt: Floats, top: int) -> _Found:
    """The step that the values have together, when the greatest is ``top`` of them."""
    step = np.maximum(wanted.max(axis=1, keepdims=True), _TINY) / np.float32(top)
    for _ in range(_REFINEMENTS):
        whole = np.clip(np.rint(wanted / step), 0, 63)
        square = np.maximum((whole * whole).sum(axis=1, keepdims=True), 1)
        step = np.maximum((wanted * whole).sum(axis=1, keepdims=True) / square, _TINY)
    some = np.maximum(whole, 1)
    lowest = np.where(whole > 0, (wanted - doubt) / some, 0).max(axis=1, keepdims=True)
    highest = np.where(whole > 0, (wanted + doubt) / some, _LARGEST_HALF).min(axis=1, keepdims=True)
    # Of least error, no nearer to one value than the doubt of each allows.
    return _best(wanted, doubt, np.clip(step, lowest, highest), (0, -1, 1))


def _by_neighbours(wanted: Floats, doubt: Floats, top: int) -> _Found:
    greatest = np.maximum(wanted.max(axis=1, keepdims=True), _TINY)
    return _best(wanted, doubt, greatest / np.float32(top), tuple(range(-_NEIGHBOURS, _NEIGHBOURS + 1)))


def _best(wanted: Floats, doubt: Floats, step: Floats, neighbours: tuple[int, ...]) -> _Found:
    """Of the half-precision numbers around ``step``, that of least error which suits."""
    middle = np.minimum(step, _LARGEST_HALF).astype(np.float16).view(np.int16)
    found, integers = np.zeros_like(step), np.zeros_like(wanted)
    least = np.full((len(wanted), 1), np.inf, np.float32)
    for near in neighbours:
        half = np.clip(middle + near, 1, _LAST_HALF).astype(np.int16).view(np.float16).astype(np.float32)
        whole = np.clip(np.rint(wanted / half), 0, 63)
        error = np.abs(whole * half - wanted)
        fits = (error <= doubt).all(axis=1, keepdims=True)
        better = fits & ((error * error).sum(axis=1, keepdims=True) < least)
        least = np.where(better, (error * error).sum(axis=1, keepdims=True), least)
        found, integers = np.where(better, half, found), np.where(better, whole, integers)
    return found, integers, np.isfinite(least[:, 0])


def _scale_min(rows: Operands, middle: int) -> Bytes:
    """d, dmin and the twelve bytes of eight scales and mins."""
    scales = _super_blocks(rows, 8)
    d, factors = _common_scale(scales, _UNSIGNED)
    least, doubt = (part.reshape(-1, 8) for part in _least(rows, middle))
    # What single precision lost when the offset was added up.
    dmin, mins = _mins(least, doubt + np.float32(2.0**-22) * (np.abs(least) + middle * np.abs(scales)))
    return np.hstack([halves(np.hstack([d, dmin])), six_bit_pairs(factors, mins)])


def _q4_k(rows: Operands) -> Bytes:
    head = _scale_min(rows, 8)
    q = rows.q.reshape(-1, 4, 2, 16)
    first, second = q[:, :, 0], q[:, :, 1]
    low = np.empty((len(q), 4, 32), np.uint8)
    low[:, :, 0::2] = first & 15 | second << 4
    low[:, :, 1::2] = first >> 4 | second & 0xF0
    return np.hstack([head, low.reshape(-1, 128)])


def _q5_k(rows: Operands) -> Bytes:
    head = _scale_min(rows, 16)
    q = rows.q.reshape(-1, 256) - np.uint8(112)
    if q.size and q.max() > 31:
        raise Unfit("weights of more than 5 bits")
    fifth = (q >> 4).reshape(-1, 8, 32).transpose(0, 2, 1).reshape(-1, 256)
    return np.hstack([head, bits(fifth.astype(np.int32)), nibbles((q & 15).astype(np.int32), 32)])


_FORMS: dict[tuple[int, int, bool], tuple[str, ...]] = {
    (4, 32, False): ("Q4_0",),
    (8, 32, False): ("Q8_0", "Q5_0", "IQ4_NL"),
    (8, 16, False): ("Q6_K",),
    (4, 32, True): ("Q4_1", "Q4_K"),
    (8, 32, True): ("Q5_1", "Q5_K"),
}
_BUILDERS: dict[str, Callable[[Operands], Bytes]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "Q8_0": _q8_0,
    "IQ4_NL": _iq4_nl,
}
