"""IQ4_NL: 32 elements of 4 bits that stand for 16 unevenly spaced values, and a scale."""

from __future__ import annotations

import numpy as np

from edgeinfer.kernels.formats.block_format import BlockFormat, Bytes, Floats
from edgeinfer.kernels.formats.packing import Words, from_halves, from_nibbles, half_precision, halves, nibbles
from edgeinfer.kernels.formats.rounding import divisor
from edgeinfer.kernels.formats.search import fit_scale

_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_MIDDLES = (_VALUES[1:] + _VALUES[:-1]) / np.float32(2)  # exact
_INVERSES = np.concatenate([np.arange(-133, -120, 2, dtype=np.float32), np.arange(107, 120, 2, dtype=np.float32)])


def _index(scaled: Floats) -> Words:
    """Which value is nearest; the lower of two."""
    return np.searchsorted(_MIDDLES, scaled, side="left").astype(np.int32)


class IQ4_NL(BlockFormat, searches=True):
    """x = d * value[q]."""

    @classmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:
        w = np.ones_like(values) if weights is None else weights
        d = half_precision(fit_scale(values, w, _INVERSES, lambda scaled: _VALUES[_index(scaled)]))
        q = np.where(d == 0, np.int32(8), _index(values / divisor(d)))
        return np.hstack([halves(d), nibbles(q, 16)])

    @classmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        return from_halves(blocks[:, :2]) * _VALUES[from_nibbles(blocks[:, 2:], 16)]
