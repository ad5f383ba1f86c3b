"""Q5_0: 32 elements of 5 bits and a scale."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import bits, from_bits, from_halves, from_nibbles, halves, nibbles
from edgeinfer.kernels.formats.rounding import farthest, reciprocal
from edgeinfer.kernels.formats.search import weighted_symmetric


class Q5_0(BlockFormat, weighs=True):
    """x = d * (q - 16); as Q4_0, with the fifth bits of all in four bytes of their own."""

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:
        if weights is None:
            d = farthest(values) / np.float32(-16)
            q = (values * reciprocal(d) + np.float32(16.5)).astype(np.int32).clip(0, 31)
        else:
            d, q = weighted_symmetric(values, weights, 16)
        return np.hstack([halves(d), bits(q >> 4), nibbles(q & 15, 16)])

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        q = from_nibbles(blocks[:, 6:], 16) | from_bits(blocks[:, 2:6]) << 4
        return from_halves(blocks[:, :2]) * (q - 16).astype(np.float32)
