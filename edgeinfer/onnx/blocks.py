"""GGUF blocks from the operands of ``MatMulNBits``: the way back of what the converter did, so that our kernels, which
are packed from GGUF blocks, multiply with the very same weights.

    4 bits, blocks of 32                 Q4_0
    8 bits, blocks of 32                 Q5_0, Q8_0, IQ4_NL
    8 bits, blocks of 16                 Q6_K
    4 bits, blocks of 32, zero points    Q4_1
    4 bits, blocks of 32, and offsets    Q4_K, or Q4_1 where the scales are not those of super-blocks
    8 bits, blocks of 32, and offsets    Q5_K, Q5_1

A super-block's scales are products of a half-precision number and small integers, exact in single precision: one of the
integers that the greatest can be gives all of them back. Offsets were rounded to 8 bits on the way; the least values
that they come from are half-precision numbers and small integers too, and those found are within that rounding. Owns
these layouts; knows neither files nor graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeinfer.gguf.formats import TENSOR_TYPES
from edgeinfer.kernels import library
from edgeinfer.kernels.formats.packing import half_precision, halves, six_bit_pairs

__all__ = ["ROUNDABLE", "Operands", "Unfit", "candidates", "rebuild"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.int32]

_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16)


_KINDS = {kind.name: kind for kind in TENSOR_TYPES.values()}
_LONGER = (64, 128)
ROUNDABLE = ("Q4_0", "Q8_0")
"""Formats for weights that were quantized with scales of any size."""
_SIGNED = (-128, *(top for n in range(127, 0, -1) for top in (-n, n)))
_UNSIGNED = tuple(range(63, 0, -1))
_TINY = np.float32(2.0**-24)
_LARGEST_HALF, _LAST_HALF = np.float32(65504), 0x7BFF
_REFINEMENTS, _NEIGHBOURS = 3, 24


class Unfit(Exception):
    """The operands are not those of the format that was asked for."""


@dataclass(frozen=True, slots=True)
class Operands:
    """Rows of a matrix. ``q`` uint8 (rows, blocks, bytes of a block), of two 4-bit weights in a byte the earlier in the
    low half; ``scales`` float32 (rows, blocks); ``offsets`` float32 (rows, columns / 32) or None, each at most
    ``doubt``, of the same shape, from what it was before it was rounded; ``zeros`` (rows, blocks), 0 to 15, or None."""

    bits: int
    block: int
    q: Bytes
    scales: Floats
    offsets: Floats | None = None
    doubt: Floats | None = None
    zeros: Words | None = None


def candidates(type_name: str, n_bits: int, block: int, corrected: bool, zero_points: bool = False) -> tuple[str, ...]:
    """The formats that a matrix of this form can be rebuilt in, the best first; ``type_name``: what it was in the
    source. Empty for a form that no GGUF format has."""
    if zero_points:
        return ("Q4_1",) if n_bits == 4 and block in (32, *_LONGER) and not corrected else ()
    known = _FORMS.get((n_bits, 32 if block in _LONGER and not corrected else block, corrected), ())
    return tuple(sorted(known, key=lambda name: name != type_name))


def rebuild(type_name: str, rows: Operands, *, rounded: bool = False) -> Bytes:
    """Blocks of that format, uint8 (rows, bytes of a row). ``rounded``: scales of Q4_0 and Q8_0, and scales and
    least values of blocks with zero points, may be off by the rounding to half precision. Raises `Unfit`,
    `BackendUnavailable` without the library."""
    if not np.isfinite(rows.scales).all():
        raise Unfit("scales that are not numbers")
    if rows.block in _LONGER:
        rows = _of_32(rows)
    if rounded and rows.zeros is not None:
        rows = replace(rows, scales=_rounded(rows.scales))
    if type_name == "IQ4_NL":
        return _iq4_nl(rows).reshape(len(rows.q), -1)
    if rounded and type_name in ROUNDABLE:
        rows = replace(rows, scales=_rounded(rows.scales))
    if rows.zeros is not None:
        heads = np.ascontiguousarray(_scale_and_zero(rows, rows.zeros, rounded))
    else:
        heads = np.ascontiguousarray(_HEADS[type_name](rows))
    kind, q = _KINDS[type_name], np.ascontiguousarray(rows.q)
    blocks = np.empty((len(heads), kind.block_bytes), np.uint8)
    made = library.load().ei_build_blocks(kind.id, q.ctypes.data, heads.ctypes.data, len(heads), blocks.ctypes.data)
    if made != len(heads):
        raise Unfit("weights that the format does not have")
    return blocks.reshape(len(rows.q), -1)


# ---- blocks of 32 without offsets: one scale


def _of_32(rows: Operands) -> Operands:
    """Longer blocks as several with the same scale."""
    parts = rows.block // 32
    q = rows.q.reshape(len(rows.q), -1, rows.q.shape[2] // parts)
    zeros = None if rows.zeros is None else np.repeat(rows.zeros, parts, axis=1)
    return replace(rows, block=32, q=q, scales=np.repeat(rows.scales, parts, axis=1), zeros=zeros)


def _half(rows: Operands) -> Bytes:
    """Scales as halves, ``(n, 2)`` bytes. Raises `Unfit` where one is not a half-precision number."""
    flat = rows.scales.reshape(-1, 1)
    if not np.array_equal(half_precision(flat), flat):
        raise Unfit("scales that are not of half precision")
    return halves(flat)


def _rounded(scales: Floats) -> Floats:
    """Scales of half precision that are next to these. Raises `Unfit` where one would be off by more than 2^-11."""
    found = half_precision(scales)
    if not (np.abs(found - scales) <= np.float32(2.0**-11) * np.abs(scales)).all():
        raise Unfit("scales beyond half precision")
    return found


def _iq4_nl(rows: Operands) -> Bytes:
    places = np.full(256, 255, np.uint8)
    places[_IQ4_NL + 128] = np.arange(16)
    codes = places[rows.q.reshape(-1, 32)]
    if (codes == 255).any():
        raise Unfit("weights that are none of the format's sixteen")
    return np.hstack([_half(rows), codes[:, :16] | codes[:, 16:] << 4])


# ---- blocks of 32 with a least value


def _least(rows: Operands, middle: int) -> tuple[Floats, Floats]:
    """m of x = d * q + m, ``(n, 1)`` each: of the offsets, which are m + middle * d, and what they may be off by."""
    if rows.offsets is None or rows.doubt is None:
        raise Unfit("no offsets")
    m = rows.offsets.reshape(-1, 1) - np.float32(middle) * rows.scales.reshape(-1, 1)
    return m, rows.doubt.reshape(-1, 1)


def _scale_and_least(rows: Operands, middle: int) -> Bytes:
    m, _ = _least(rows, middle)
    if max(np.abs(m).max(initial=0), np.abs(rows.scales).max(initial=0)) > _LARGEST_HALF:
        raise Unfit("scales beyond half precision")
    return halves(np.hstack([rows.scales.reshape(-1, 1), m]))


def _scale_and_zero(rows: Operands, zeros: Words, rounded: bool) -> Bytes:
    """scale * (q - zero) is d * q + m with m = -zero * scale, a product that single precision has whole: the scale is
    of 11 bits and the zero point of 4."""
    least = -rows.scales * zeros.astype(np.float32)
    if np.abs(least).max(initial=0) > _LARGEST_HALF:
        raise Unfit("least values beyond half precision")
    if rounded:
        least = half_precision(least)
    return np.hstack([_half(rows), _half(replace(rows, scales=least))])


# ---- super-blocks of 256


# Numbers of a super-block are a column here: what is said of all of them is then a few operations on long rows.


def _columns(values: Floats, n: int) -> Floats:
    """Values in the order of columns, ``(n, super-blocks)``."""
    return np.ascontiguousarray(values.reshape(-1, n).T)


def _scales(rows: Operands, n: int) -> Floats:
    if rows.scales.shape[1] % n:
        raise Unfit("rows that are not whole super-blocks")
    return _columns(rows.scales, n)


def _common_scale(scales: Floats, highest: tuple[int, ...]) -> tuple[Floats, Words]:
    """Scales ``(s, n)`` as d ``(n,)`` of half precision times integers ``(s, n)``; ``highest``: what the integer of the
    greatest can be, the likeliest first. Raises `Unfit` where there is none for all."""
    least, most = min(0, *highest), max(highest)
    d, factors = np.zeros(scales.shape[1], np.float32), np.zeros(scales.shape, np.int32)
    high, low = scales.max(axis=0), scales.min(axis=0)
    greatest = np.where(-low > high, low, high)
    left = np.flatnonzero(greatest)
    for top in highest:
        if not left.size:
            break
        part, step = scales[:, left], half_precision(greatest[left] / np.float32(top))
        with np.errstate(divide="ignore", invalid="ignore"):
            whole = np.rint(part / step)
            right = (whole * step == part).all(axis=0) & (whole.min(axis=0) >= least) & (whole.max(axis=0) <= most)
        right &= (step != 0) & np.isfinite(step)
        d[left[right]], factors[:, left[right]] = step[right], whole[:, right].astype(np.int32)
        left = left[~right]
    if left.size:
        raise Unfit("scales that have no common step")
    return d, factors


def _q6_k(rows: Operands) -> Bytes:
    d, factors = _common_scale(_scales(rows, 16), _SIGNED)
    return np.hstack([factors.T.astype(np.int8).view(np.uint8), halves(d[:, None])])


def _mins(least: Floats, doubt: Floats) -> tuple[Floats, Words]:
    """Least values ``(8, n)`` as -dmin ``(n,)`` of half precision times integers below 64, each within ``doubt``.

    Tried is every integer that the greatest can have been, the likeliest first; the first that suits all has it. What
    does not come out at once, because a doubtful greatest made integers of others wrong, is sought among all numbers
    near by. Raises `Unfit` where nothing suits.
    """
    wanted = -least
    dmin, factors = np.zeros(wanted.shape[1], np.float32), np.zeros(wanted.shape, np.int32)
    left = np.flatnonzero((np.abs(wanted) > doubt).any(axis=0))
    for top in _UNSIGNED:
        for search in (_by_all, _by_neighbours):
            if not left.size:
                return dmin, factors
            step, whole, fits = search(wanted[:, left], doubt[:, left], top)
            dmin[left[fits]], factors[:, left[fits]] = step[fits], whole[:, fits].astype(np.int32)
            left = left[~fits]
    if left.size:
        raise Unfit("least values that have no common step")
    return dmin, factors


_Found = tuple[Floats, Floats, npt.NDArray[np.bool_]]
"""Steps ``(n,)``, integers ``(8, n)``, and which of the n fit."""


def _by_all(wanted: Floats, doubt: Floats, top: int) -> _Found:
    """The step that the values have together, when the greatest is ``top`` of them."""
    step = np.maximum(wanted.max(axis=0), _TINY) / np.float32(top)
    for _ in range(_REFINEMENTS):
        whole = np.clip(np.rint(wanted / step), 0, 63)
        step = np.maximum((wanted * whole).sum(axis=0) / np.maximum((whole * whole).sum(axis=0), 1), _TINY)
    some = np.maximum(whole, 1)
    lowest = np.where(whole > 0, (wanted - doubt) / some, 0).max(axis=0)
    highest = np.where(whole > 0, (wanted + doubt) / some, _LARGEST_HALF).min(axis=0)
    # Of least error, no nearer to one value than the doubt of each allows.
    return _best(wanted, doubt, np.clip(step, lowest, highest), (0, -1, 1))


def _by_neighbours(wanted: Floats, doubt: Floats, top: int) -> _Found:
    greatest = np.maximum(wanted.max(axis=0), _TINY)
    return _best(wanted, doubt, greatest / np.float32(top), tuple(range(-_NEIGHBOURS, _NEIGHBOURS + 1)))


def _best(wanted: Floats, doubt: Floats, step: Floats, neighbours: tuple[int, ...]) -> _Found:
    """Of the half-precision numbers around ``step``, that of least error which suits."""
    middle = np.minimum(step, _LARGEST_HALF).astype(np.float16).view(np.int16)
    found, integers = np.zeros_like(step), np.zeros_like(wanted)
    least = np.full(step.shape, np.inf, np.float32)
    for near in neighbours:
        half = np.clip(middle + near, 1, _LAST_HALF).astype(np.int16).view(np.float16).astype(np.float32)
        whole = np.clip(np.rint(wanted / half), 0, 63)
        error = np.abs(whole * half - wanted)
        size = (error * error).sum(axis=0)
        better = (error <= doubt).all(axis=0) & (size < least)
        least[better], found[better], integers[:, better] = size[better], half[better], whole[:, better]
    return found, integers, np.isfinite(least)


def _scale_min(rows: Operands, middle: int) -> Bytes:
    """d, dmin and the twelve bytes of eight scales and mins."""
    scales = _scales(rows, 8)
    d, factors = _common_scale(scales, _UNSIGNED)
    least, doubt = (_columns(part, 8) for part in _least(rows, middle))
    # What single precision lost when the offset was added up.
    dmin, mins = _mins(least, doubt + np.float32(2.0**-22) * (np.abs(least) + middle * np.abs(scales)))
    return np.hstack([halves(np.stack([d, dmin], axis=1)), six_bit_pairs(factors.T, mins.T)])


_FORMS: dict[tuple[int, int, bool], tuple[str, ...]] = {
    (4, 32, False): ("Q4_0",),
    (8, 32, False): ("Q8_0", "Q5_0", "IQ4_NL"),
    (8, 16, False): ("Q6_K",),
    (4, 32, True): ("Q4_1", "Q4_K"),
    (8, 32, True): ("Q5_1", "Q5_K"),
}
_HEADS: dict[str, Callable[[Operands], Bytes]] = {
    "Q4_0": _half,
    "Q4_1": lambda rows: _scale_and_least(rows, 8),
    "Q4_K": lambda rows: _scale_min(rows, 8),
    "Q5_0": _half,
    "Q5_1": lambda rows: _scale_and_least(rows, 16),
    "Q5_K": lambda rows: _scale_min(rows, 16),
    "Q6_K": _q6_k,
    "Q8_0": _half,
}
"""All of a block but its weights, as it lies there, ``(blocks, bytes)``."""
