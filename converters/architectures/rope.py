"""Rotary position embeddings: the angle of each pair of a head's elements at each position. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Rope", "Yarn"]

Floats = npt.NDArray[np.float32]
_PIECE = 4096


@dataclass(frozen=True, slots=True)
class Yarn:
    """Peng et al., "YaRN" (arXiv:2309.00071), with the constants that GGUF keeps. ``n_ctx`` is the context of the
    training before it was stretched."""

    n_ctx: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Rope:
    """``head_dim`` elements are rotated in pairs; pair i turns by ``theta ** (-2 i / head_dim) / factor`` a position.
    ``factors`` divide each pair's angle further (Llama 3, Phi 3); cosines and sines are multiplied by ``stretch``."""

    theta: float
    head_dim: int
    factor: float = 1.0
    yarn: Yarn | None = None
    factors: tuple[float, ...] | None = None
    stretch: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether ``theta`` says all."""
        return self == Rope(self.theta, self.head_dim)

    def angles(self) -> npt.NDArray[np.float64]:
        """Radians a position of each pair, ``(head_dim / 2,)``."""
        plain = self.theta ** (-np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim)
        if self.factors is not None:
            plain = plain / np.array(self.factors)
        stretched: npt.NDArray[np.float64] = plain / self.factor
        if self.yarn is None:
            return stretched
        low, high = (self._pair_of(self.yarn, beta) for beta in (self.yarn.beta_fast, self.yarn.beta_slow))
        low, high = max(0.0, math.floor(low)), min(self.head_dim - 1.0, math.ceil(high))
        ramp = (np.arange(self.head_dim // 2) - low) / max(0.001, high - low)
        kept = 1 - np.clip(ramp, 0, 1)
        mixed: npt.NDArray[np.float64] = stretched * (1 - kept) + plain * kept
        return mixed

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.yarn is None:
            return self.stretch
        return self.yarn.attention_factor * (1 + 0.1 * math.log(self.factor))

    def _pair_of(self, yarn: Yarn, turns: float) -> float:
        """The pair that makes that many turns within the trained context."""
        return self.head_dim * math.log(yarn.n_ctx / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

    def tables(self, n_ctx: int, n_pairs: int | None = None) -> Iterator[tuple[Floats, Floats]]:
        """Cosines and sines of positions 0 to ``n_ctx`` - 1 in pieces of rows, each ``(rows, n_pairs)``; pairs beyond
        those of a head are not turned."""
        angles = self.angles()
        angles = np.pad(angles, (0, (n_pairs or len(angles)) - len(angles)))
        for first in range(0, n_ctx, _PIECE):
            turned = np.arange(first, min(n_ctx, first + _PIECE), dtype=np.float64)[:, None] * angles
            yield tuple(  # type: ignore[misc]
                (table * self.magnitude).astype(np.float32) for table in (np.cos(turned), np.sin(turned))
            )
