"""Q4_0: 32 elements of 4 bits and a scale."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import from_halves, from_nibbles, halves, nibbles
from edgeinfer.kernels.formats.rounding import farthest, reciprocal
from edgeinfer.kernels.formats.search import weighted_symmetric


class Q4_0(BlockFormat, weighs=True):
    """x = d * (q - 8). The value of greatest magnitude gets q = 0, whatever its sign, so that all of 0 to 15 is
    used."""

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:
        if weights is None:
            d = farthest(values) / np.float32(-8)
            q = (values * reciprocal(d) + np.float32(8.5)).astype(np.int32).clip(0, 15)
        else:
            d, q = weighted_symmetric(values, weights, 8)
        return np.hstack([halves(d), nibbles(q, 16)])

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        d, q = from_halves(blocks[:, :2]), from_nibbles(blocks[:, 2:], 16)
        return d * (q - 8).astype(np.float32)
