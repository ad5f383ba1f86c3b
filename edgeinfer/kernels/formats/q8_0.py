"""Q8_0: 32 elements of 8 bits and a scale."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import from_halves, halves
from edgeinfer.kernels.formats.rounding import farthest, reciprocal


class Q8_0(BlockFormat):
    """x = d * q with q from -127 to 127; ties are rounded away from zero."""

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:  # noqa: ARG003
        d = np.abs(farthest(values)) / np.float32(127)
        scaled = values * reciprocal(d)
        whole = np.trunc(scaled)
        q = whole + np.trunc((scaled - whole) * np.float32(2))
        return np.hstack([halves(d), q.astype(np.int8).view(np.uint8)])

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        q = np.ascontiguousarray(blocks[:, 2:]).view(np.int8)
        return from_halves(blocks[:, :2]) * q.astype(np.float32)
