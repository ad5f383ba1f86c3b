"""Q5_K: 256 elements of 5 bits, in eight sub-blocks with a scale and a min of 6 bits each."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import (
    bits,
    from_bits,
    from_halves,
    from_nibbles,
    from_six_bit_pairs,
    halves,
    nibbles,
    six_bit_pairs,
)
from edgeinfer.kernels.formats.super_block import dequantize_scale_min, quantize_scale_min

_OFFSETS = np.arange(-2, 4, dtype=np.float32) * np.float32(0.25)


class Q5_K(BlockFormat, searches=True):
    """x = d * scale * q - dmin * min; bit s of byte i of the fifth bits belongs to element i of sub-block s."""

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:
        found = quantize_scale_min(values, weights, 31, _OFFSETS)
        high = bits((found.quants >> 4).reshape(-1, 8, 32).transpose(0, 2, 1).reshape(-1, 256))
        packed = six_bit_pairs(found.scales, found.mins)
        return np.hstack([halves(found.d), packed, high, nibbles(found.quants & 15, 32)])

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        high = from_bits(blocks[:, 16:48]).reshape(-1, 32, 8).transpose(0, 2, 1).reshape(-1, 256)
        q = from_nibbles(blocks[:, 48:], 32) | high << 4
        return dequantize_scale_min(from_halves(blocks[:, :4]), *from_six_bit_pairs(blocks[:, 4:16]), q)
