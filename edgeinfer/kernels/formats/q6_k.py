"""Q6_K: 256 elements of 6 bits, in sixteen sub-blocks with a scale of 8 bits each."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import from_halves, from_nibbles, half_precision, halves, nibbles
from edgeinfer.kernels.formats.rounding import divisor, farthest
from edgeinfer.kernels.formats.search import clamped, fit_scale

_INVERSES = np.arange(-329, -310, dtype=np.float32) * np.float32(0.1)


class Q6_K(BlockFormat, searches=True):
    """x = d * scale * (q - 32). Of each 128 elements, the low nibbles lie as two runs of 32 below two others, the high
    pairs of bits as four runs of 32 in one."""

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:
        x = values.reshape(-1, 16, 16)
        w = np.ones_like(x) if weights is None else weights.reshape(-1, 16, 16)
        best = fit_scale(x, w, _INVERSES, lambda scaled: clamped(scaled, -32, 31))
        d = half_precision(farthest(best[..., 0]) / np.float32(-128))[..., None]
        scales = np.where(d == 0, np.float32(0), clamped(best / divisor(d), -128, 127))
        step = d * scales
        nearby = np.where(step == 0, np.float32(0), clamped(x / divisor(step), -32, 31))
        q = nearby.astype(np.int32).reshape(-1, 256) + 32
        pairs = (q >> 4).reshape(-1, 2, 4, 32)
        high = pairs[:, :, 0] | pairs[:, :, 1] << 2 | pairs[:, :, 2] << 4 | pairs[:, :, 3] << 6
        small = scales[..., 0].astype(np.int8).view(np.uint8)
        return np.hstack([nibbles(q & 15, 64), high.reshape(-1, 64).astype(np.uint8), small, halves(d[..., 0])])

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        high = blocks[:, 128:192].reshape(-1, 2, 1, 32).astype(np.int32)
        pairs = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(-1, 256)
        q = (from_nibbles(blocks[:, :128], 64) | pairs << 4) - 32
        scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
        step = from_halves(blocks[:, 208:]) * scales
        return (step[..., None] * q.reshape(-1, 16, 16).astype(np.float32)).reshape(-1, 256)
