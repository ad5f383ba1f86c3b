"""Q4_K: 256 elements of 4 bits, in eight sub-blocks with a scale and a min of 6 bits each."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import (
    from_halves,
    from_nibbles,
    from_six_bit_pairs,
    halves,
    nibbles,
    six_bit_pairs,
)
from edgeinfer.kernels.formats.super_block import dequantize_scale_min, quantize_scale_min

_OFFSETS = np.arange(-4, 4, dtype=np.float32) * np.float32(0.35)


class Q4_K(BlockFormat, searches=True):
    """x = d * scale * q - dmin * min."""

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:
        found = quantize_scale_min(values, weights, 15, _OFFSETS)
        return np.hstack([halves(found.d), six_bit_pairs(found.scales, found.mins), nibbles(found.quants, 32)])

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        q = from_nibbles(blocks[:, 16:], 32)
        return dequantize_scale_min(from_halves(blocks[:, :4]), *from_six_bit_pairs(blocks[:, 4:16]), q)
