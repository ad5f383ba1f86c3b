"""How small integers and half-precision numbers lie in a block's bytes, for all formats. Each function acts on rows of
``(n, ...)`` arrays, one row a block."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.kernels.formats.block_format import Bytes, Floats

Words = npt.NDArray[np.int32]


def halves(values: Floats) -> Bytes:
    """``(n, m)`` floats to ``(n, 2 m)`` bytes of half precision, rounded to even; beyond its range they are
    infinite."""
    with np.errstate(over="ignore"):
        return values.astype("<f2").view(np.uint8)


def from_halves(data: Bytes) -> Floats:
    """The opposite of `halves`."""
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def half_precision(values: Floats) -> Floats:
    """The values as half precision keeps them."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def nibbles(quants: Words, run: int) -> Bytes:
    """Quants ``(n, m)`` below 16 to ``(n, m / 2)`` bytes: of each ``2 * run``, the first in the low nibbles, the
    rest in the high ones."""
    pairs = quants.reshape(len(quants), -1, 2, run)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).astype(np.uint8).reshape(len(quants), -1)


def from_nibbles(data: Bytes, run: int) -> Words:
    """The opposite of `nibbles`."""
    runs = data.reshape(len(data), -1, 1, run)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(len(data), -1).astype(np.int32)


def bits(flags: Words) -> Bytes:
    """``(n, 8 m)`` of 0 and 1 to ``(n, m)`` bytes, the first in the lowest bit."""
    return np.packbits(flags.astype(np.uint8), axis=-1, bitorder="little")


def from_bits(data: Bytes) -> Words:
    """The opposite of `bits`."""
    return np.unpackbits(data, axis=-1, bitorder="little").astype(np.int32)


def six_bit_pairs(scales: Words, mins: Words) -> Bytes:
    """Eight scales and eight mins below 64, each ``(n, 8)``, to the 12 bytes of Q4_K and Q5_K: the first four of
    each in the low six bits of bytes 0-3 and 4-7, the others as nibbles in bytes 8-11 with their high bits above the
    first."""
    low = [part[:, :4] | part[:, 4:] >> 4 << 6 for part in (scales, mins)]
    return np.concatenate([*low, scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4], axis=1).astype(np.uint8)


def from_six_bit_pairs(data: Bytes) -> tuple[Words, Words]:
    """The opposite of `six_bit_pairs`."""
    a, b, c = (data[:, i : i + 4].astype(np.int32) for i in (0, 4, 8))
    return np.hstack([a & 63, c & 15 | a >> 6 << 4]), np.hstack([b & 63, c >> 4 | b >> 6 << 4])
