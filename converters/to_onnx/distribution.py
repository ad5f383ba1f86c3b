"""How the values of a tensor are spread, found as they stream by, and the steps of a whole number of bits that lose
least of them. Knows no graph and no text.

x is stored as q = round(x / scale) + zero_point, cut off at 0 and 2^bits - 1. What is cut off is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Distribution", "Steps", "best_steps"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_KEPT_BITS = 15  # of a float32: its sign, its exponent, and so much of its mantissa that a bin is 1/64 octave wide
_N_SHRUNK = 40  # ranges that are tried, each that part of an octave smaller
_PER_OCTAVE = 4


@dataclass(frozen=True, slots=True)
class Steps:
    """``clipped``: the share of values that lie outside of the range; ``error``, ``power``: sums of squares of what is
    lost and of all, over ``n`` values."""

    bits: int
    scale: np.float32
    zero_point: int
    clipped: float
    error: float
    power: float
    n: int


class Distribution:
    """A histogram with bins as fine as the values are small, so that its range need not be known beforehand. 256 KB."""

    def __init__(self) -> None:
        self._counts = np.zeros(1 << _KEPT_BITS, np.int64)
        self.least = np.float32(0)  # zero must be among what is stored exactly
        self.greatest = np.float32(0)

    def add(self, values: Floats) -> None:
        """Of any shape; finite."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        self._counts += np.bincount(flat.view(np.uint32) >> np.uint32(32 - _KEPT_BITS), minlength=1 << _KEPT_BITS)
        self.least, self.greatest = min(self.least, flat.min()), max(self.greatest, flat.max())

    @property
    def n(self) -> int:
        return int(self._counts.sum())

    def bins(self) -> tuple[Doubles, Doubles, Doubles]:
        """(middles, widths, counts) of those that hold anything. No middle is beyond the least or greatest value."""
        (which,) = self._counts.nonzero()
        near = (which.astype(np.uint32) << np.uint32(32 - _KEPT_BITS)).view(np.float32).astype(np.float64)
        far = ((which.astype(np.uint32) + 1 << np.uint32(32 - _KEPT_BITS)) - 1).view(np.float32).astype(np.float64)
        middles = np.clip((near + far) / 2, self.least, self.greatest)
        return middles, np.abs(far - near), self._counts[which].astype(np.float64)


def best_steps(found: Distribution, bits: int) -> Steps:
    """Those of least squared error: either end of the range is moved in as long as finer steps gain more than what is
    cut off costs (Sakr et al., "Optimal Clipping and Magnitude-aware Differentiation", arXiv:2206.06501, find the same
    balance by iteration)."""
    bins = found.bins()
    best = _measured(bins, bits, found.least, found.greatest)
    shrunk = [2.0 ** (-i / _PER_OCTAVE) for i in range(_N_SHRUNK)]
    ends = [float(found.least), float(found.greatest)]
    for _ in range(2):
        for side in (1, 0):
            whole = float(found.greatest if side else found.least)
            for part in shrunk:
                tried = [*ends]
                tried[side] = whole * part
                steps = _measured(bins, bits, *tried)
                if steps.error < best.error:
                    best, ends = steps, tried
    return best


def _measured(bins: tuple[Doubles, Doubles, Doubles], bits: int, least: float, greatest: float) -> Steps:
    """Where a bin is wider than a step its values are taken to lie evenly between steps."""
    middles, widths, counts = bins
    top = (1 << bits) - 1
    scale = np.float32((float(greatest) - float(least)) / top) or np.float32(1)
    zero = int(np.clip(np.rint(-float(least) / float(scale)), 0, top))
    q = np.rint(middles / float(scale)) + zero
    inside = (q >= 0) & (q <= top)
    lost = np.square((np.clip(q, 0, top) - zero) * float(scale) - middles)
    lost = np.where(inside & (widths > scale), float(scale) ** 2 / 12, lost)
    n = counts.sum()
    return Steps(
        bits=bits,
        scale=scale,
        zero_point=zero,
        clipped=float(counts[~inside].sum() / max(1.0, n)),
        error=float((lost * counts).sum()),
        power=float((np.square(middles) * counts).sum()),
        n=int(n),
    )
