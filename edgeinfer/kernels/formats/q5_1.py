"""Q5_1: 32 elements of 5 bits, a scale and a least value."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import bits, from_bits, from_halves, from_nibbles, halves, nibbles
from edgeinfer.kernels.formats.rounding import extremes, reciprocal
from edgeinfer.kernels.formats.search import weighted_affine

_OFFSETS = np.arange(-8, 8, dtype=np.float32) * np.float32(0.25)


class Q5_1(BlockFormat, weighs=True):
    """x = d * q + m, from the least to the greatest value in 31 steps; fifth bits as in Q5_0."""

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:
        if weights is None:
            m, greatest = extremes(values)
            d = (greatest - m) / np.float32(31)
            q = ((values - m) * reciprocal(d) + np.float32(0.5)).astype(np.int32).clip(0, 31)
        else:
            d, m, q = weighted_affine(values, weights, 31, _OFFSETS)
        return np.hstack([halves(d), halves(m), bits(q >> 4), nibbles(q & 15, 16)])

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        d, m = from_halves(blocks[:, :2]), from_halves(blocks[:, 2:4])
        q = from_nibbles(blocks[:, 8:], 16) | from_bits(blocks[:, 4:8]) << 4
        return d * q.astype(np.float32) + m
