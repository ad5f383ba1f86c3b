"""Rows of floats that make every kind of trouble for a quantizer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Floats = npt.NDArray[np.float32]
KINDS = ("normal", "heavy", "sparse", "positive", "negative", "constant", "grid", "zeros", "one", "mixed scales")


def make(kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Rows of one kind, of magnitude about 1."""
    x = rng.standard_normal(shape)
    if kind == "heavy":
        x = rng.standard_t(3, shape)
    elif kind == "sparse":
        x[rng.random(shape) < 0.9] = 0
    elif kind in ("positive", "negative"):
        x = np.abs(x) if kind == "positive" else -np.abs(x)
    elif kind == "constant":
        x[:] = x[:, :1]
    elif kind == "grid":  # ties, everywhere
        x = np.round(x * 4) / 4
    elif kind == "zeros":
        x = np.where(np.arange(shape[0])[:, None] % 2, -0.0, 0.0) * x
    elif kind == "one":
        x[:, 1:] = 0
    elif kind == "mixed scales":
        x *= np.power(10.0, rng.integers(-6, 3, shape))
    return np.array(x, np.float32)


@st.composite
def rows(draw: st.DrawFn, block_size: int) -> Floats:
    """Between 1 and 5 rows of up to four blocks, down to subnormal and up to where scales leave half precision."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 5)), block_size * draw(st.integers(1, 4)))
    scale = draw(st.sampled_from((1.0, 0.02, 1e-4, 1e-7, 1e-30, 1e-40, 100.0, 1e4)))
    scaled: Floats = make(draw(st.sampled_from(KINDS)), rng, shape) * np.float32(scale)
    return scaled
