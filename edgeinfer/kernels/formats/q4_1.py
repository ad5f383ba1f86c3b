"""Q4_1: 32 elements of 4 bits, a scale and a least value."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import from_halves, from_nibbles, halves, nibbles
from edgeinfer.kernels.formats.rounding import extremes, reciprocal
from edgeinfer.kernels.formats.search import weighted_affine

_OFFSETS = np.arange(-8, 8, dtype=np.float32) * np.float32(0.25)


class Q4_1(BlockFormat, weighs=True):
    """x = d * q + m, from the least to the greatest value in 15 steps."""

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:
        if weights is None:
            m, greatest = extremes(values)
            d = (greatest - m) / np.float32(15)
            q = ((values - m) * reciprocal(d) + np.float32(0.5)).astype(np.int32).clip(0, 15)
        else:
            d, m, q = weighted_affine(values, weights, 15, _OFFSETS)
        return np.hstack([halves(d), halves(m), nibbles(q, 16)])

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        d, m, q = from_halves(blocks[:, :2]), from_halves(blocks[:, 2:4]), from_nibbles(blocks[:, 4:], 16)
        return d * q.astype(np.float32) + m
