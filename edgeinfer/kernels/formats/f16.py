"""F16: IEEE half precision."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import from_halves, halves


class F16(BlockFormat):
    """x, rounded to even; 65520 and above are infinite. NaN keeps its high bits and becomes quiet."""

    special = True

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:  # noqa: ARG003
        bits = values.view(np.uint32)
        nan = (bits >> 16 & 0x8000 | 0x7E00 | bits >> 13 & 0x3FF).astype("<u2").view(np.uint8)
        is_nan = np.isnan(values)
        return np.where(np.repeat(is_nan, 2, axis=1), nan, halves(np.where(is_nan, np.float32(0), values)))

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        with np.errstate(invalid="ignore"):
            return from_halves(blocks)
