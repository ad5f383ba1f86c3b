"""F16: IEEE half precision."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import from_halves, halves


class F16(BlockFormat):
    """x, rounded to even; 65520 and above are infinite. NaN stays NaN."""

    special = True

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:  # noqa: ARG003
        return halves(values)

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        with np.errstate(invalid="ignore"):
            return from_halves(blocks)
