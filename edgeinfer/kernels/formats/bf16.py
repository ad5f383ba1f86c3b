"""BF16: the upper half of a float."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats


class BF16(BlockFormat):
    """The high 16 bits of x, rounded to even. NaN keeps its high bits and becomes quiet."""

    special = True

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:  # noqa: ARG003
        bits = values.view(np.uint32)
        rounded = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
        nan = bits >> 16 | np.uint32(64)
        high = np.where((bits & 0x7FFFFFFF) > 0x7F800000, nan, rounded)
        stored: Bytes = high.astype("<u2").view(np.uint8)
        return stored

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        return (np.ascontiguousarray(blocks).view("<u2").astype(np.uint32) << 16).view(np.float32)
