"""Rounding that makes up for itself: weights of a row are rounded one column after the other, and what rounding one
costs is taken back by those that are not yet rounded.

GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2022, arXiv:2210.17323), with the columns that matter most first ("act
order") over scales that are found beforehand ("static groups"), so that blocks stay in their order. What is minimised
is |X (W - W')^2|, for which the products of activations X^T X are all that is needed. Owns the arithmetic; knows
neither tensors' names nor where the products come from.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.to_onnx.steps import Steps, best_scales

__all__ = ["Feedback"]

Floats = npt.NDArray[np.float32]
_SHRINK = np.float32(0.3)
"""How much of what two columns have in common is not believed: it was seen on one text and serves for all."""
_DAMPING = np.float32(0.2)
"""Added to each column's square, of their mean."""
_RUN = 128
"""Columns whose errors are passed on to the rest together."""


class Feedback:
    """For matrices whose inputs have these products, float32 ``(n_cols, n_cols)``, X^T X over any number of
    activations. Memory: four times as much; time: cubic in ``n_cols``. Raises `ValueError` for products that are no
    numbers."""

    def __init__(self, products: Floats) -> None:
        if not np.isfinite(products).all():
            raise ValueError("products of activations that are not numbers")
        squares = np.diagonal(products).astype(np.float32)
        mean = float(squares.mean()) or 1.0
        self._weights: Floats = squares / np.float32(mean)
        self._order = np.argsort(-self._weights, kind="stable")
        self._factor = _factor(products, self._weights, mean, self._order)

    def __call__(self, rows: Floats, steps: Steps) -> tuple[Floats, Floats]:
        """Scales ``(n_rows, blocks)`` of half precision, and quants as floats, of rows ``(n_rows, n_cols)``."""
        scales = best_scales(rows, self._weights + _DAMPING, steps)
        by_column = np.repeat(scales, steps.block, axis=1).T[self._order]
        left = np.ascontiguousarray(rows.T[self._order])
        quants = np.empty_like(left)
        n_cols = len(left)
        for begin in range(0, n_cols, _RUN):
            end = min(begin + _RUN, n_cols)
            errors = self._run(left[begin:end], by_column[begin:end], quants[begin:end], begin, steps)
            left[end:] -= self._factor[begin:end, end:].T @ errors
        restored = np.empty_like(quants)
        restored[self._order] = quants
        return scales, np.ascontiguousarray(restored.T)

    def _run(self, left: Floats, scales: Floats, quants: Floats, begin: int, steps: Steps) -> Floats:
        """Round some columns, which are changed; answers the errors that the later ones shall take back."""
        errors = np.empty_like(left)
        for i in range(len(left)):
            divisor = np.where(scales[i] == 0, np.float32(1), scales[i])
            quants[i] = np.clip(np.rint(left[i] / divisor), steps.least, steps.greatest)
            row = self._factor[begin + i, begin : begin + len(left)]
            errors[i] = (left[i] - quants[i] * scales[i]) / row[i]
            left[i + 1 :] -= row[i + 1 :, None] * errors[i]
        return errors


def _factor(products: Floats, weights: Floats, mean: float, order: npt.NDArray[np.intp]) -> Floats:
    """The upper triangular U with U^T U the inverse of the damped products in this order.

    With the order reversed the lower factor L of the products is at once the upper one R of products = R R^T, and U is
    R^-1. The diagonal is brought to 1 for that: columns differ by factors of a million, which single precision would
    feel."""
    backwards = order[::-1]
    roots = np.sqrt(weights[backwards] + _DAMPING).astype(np.float32)
    matrix = products[np.ix_(backwards, backwards)]
    matrix *= (1 - _SHRINK) / np.float32(mean)
    matrix /= roots
    matrix /= roots[:, None]
    np.fill_diagonal(matrix, 1)
    triangle = np.linalg.cholesky(matrix)
    triangle *= roots[:, None]
    return np.ascontiguousarray(np.linalg.inv(triangle)[::-1, ::-1])
