"""What a conversion costs: bytes read, for the progress, and the error and size of what was written."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.sources import SourceTensor
from edgeinfer.converters.to_onnx.forms import OFFSET_STEP, Form

__all__ = ["Measures"]

Floats = npt.NDArray[np.float32]


class Measures:
    """Errors are of weights: what was written less what the source says. ``advance`` is told the bytes read."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._max_error = 0.0
        self._square_error = 0.0
        self._square = 0.0
        self._n_requantized = 0
        self._n_weights = 0
        self._bits = 0.0
        self._n_corrected = 0
        self._unfit: set[str] = set()
        self._correction_bits = 0.0

    def read(self, n_bytes: int) -> None:
        self._advance(n_bytes)

    def rounded(self, offsets: Floats, kept: Floats) -> None:
        """Offsets were rounded: each is an error of all weights under it."""
        error = np.abs(kept - offsets)
        self._max_error = max(self._max_error, float(error.max(initial=0)))
        self._square_error += OFFSET_STEP * float(np.square(error, dtype=np.float64).sum())

    def requantized(self, wanted: Floats, got: Floats) -> None:
        error = np.abs(got - wanted)
        self._max_error = max(self._max_error, float(error.max(initial=0)))
        self._square_error += float(np.square(error, dtype=np.float64).sum())
        self._square += float(np.square(wanted, dtype=np.float64).sum())
        self._n_requantized += wanted.size

    def stored(self, tensor: SourceTensor, form: Form, n_offset_scales: int) -> None:
        """A matrix was written; its offsets have so many scales a row."""
        n_weights = tensor.n_rows * tensor.n_cols
        self._n_weights += n_weights
        self._bits += n_weights * (form.bits + 32 / form.block)
        if form.zero_points:
            self._bits += 8 * tensor.n_rows * math.ceil(tensor.n_cols / form.block / 2)
        if form.corrected:
            n = tensor.n_cols // OFFSET_STEP
            bits = tensor.n_rows * (8 * n + 32 * n_offset_scales)
            self._bits += bits
            self._correction_bits += bits
            self._n_corrected += n_weights

    def floats(self, tensor: SourceTensor) -> None:
        """A matrix was written as floats."""
        n_weights = tensor.n_rows * tensor.n_cols
        self._n_weights += n_weights
        self._bits += 8 * tensor.n_rows * tensor.row_bytes

    def unfit(self, name: str) -> None:
        """A matrix stays floats though blocks were asked for: its rows are no whole ones."""
        self._unfit.add(name)

    def summary(self) -> dict[str, float]:
        """``max_error`` and ``rms_error`` of weights; bits a weight of matrices, and of corrections a corrected weight;
        with requantized matrices their error relative to them, as root mean squares; ``unfit_matrices``: those that
        stay floats because their rows are no whole blocks."""
        made = {
            "max_error": self._max_error,
            "rms_error": math.sqrt(self._square_error / max(1, self._n_weights)),
            "bits_per_weight": self._bits / max(1, self._n_weights),
            "correction_bits_per_weight": self._correction_bits / max(1, self._n_corrected),
        }
        if self._n_requantized:
            made["relative_error"] = math.sqrt(self._square_error / self._square) if self._square else 0.0
            made["requantized_weights"] = self._n_requantized
        if self._unfit:
            made["unfit_matrices"] = len(self._unfit)
        return made
