"""Rounding that makes up for itself: weights of a row are rounded one column after the other, and what rounding one
costs is taken back by those that are not yet rounded.

GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2022, arXiv:2210.17323), with the columns that matter most first ("act
order") over scales that are found beforehand ("static groups"), so that blocks stay in their order. What is minimised
is |X (W - W')^2|, for which the products of activations X^T X are all that is needed. Owns the arithmetic; knows
neither tensors' names nor where the products come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Feedback", "Grid"]

Floats = npt.NDArray[np.float32]
_SHRINK = np.float32(0.3)
"""How much of what two columns have in common is not believed: it was seen on one text and serves for all."""
_DAMPING = np.float32(0.2)
"""Added to each column's square, of their mean."""
_RUN = 128
"""Columns whose errors are passed on to the rest together."""
_BLOCK = 4096
"""Columns that are factored together."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What weights can be: scale * q + offset with whole q from ``least`` to ``greatest``; scales and offsets
    ``(n_rows, n_cols / block)``, offsets None for none. Where a scale is 0, q is 0, or ``least`` if that is more."""

    scales: Floats
    offsets: Floats | None
    block: int
    least: int
    greatest: int


class Feedback:
    """For matrices whose inputs have these products, float32 ``(n_cols, n_cols)``, X^T X over any number of
    activations. Memory: three times as much; time: cubic in ``n_cols``. Raises `ValueError` for products that are no
    numbers, `LinAlgError` for those of no activations."""

    def __init__(self, products: Floats) -> None:
        if not np.isfinite(products).all():
            raise ValueError("products of activations that are not numbers")
        squares = np.diagonal(products).astype(np.float32)
        mean = float(squares.mean()) or 1.0
        self.weights: Floats = squares / np.float32(mean) + _DAMPING
        """How much the square of an error in each column counts, by itself."""
        self._order = np.argsort(-self.weights, kind="stable")
        self._factor = _factor(products, self.weights, mean, self._order)

    def __call__(self, rows: Floats, grid: Grid) -> Floats:
        """The q, as floats, of rows ``(n_rows, n_cols)``."""
        scales = np.repeat(grid.scales, grid.block, axis=1).T[self._order]
        left = np.ascontiguousarray(rows.T[self._order])
        if grid.offsets is not None:  # what is left to round is then symmetric, and passes on as it is
            left -= np.repeat(grid.offsets, grid.block, axis=1).T[self._order]
        quants = np.empty_like(left)
        n_cols = len(left)
        for begin in range(0, n_cols, _RUN):
            end = min(begin + _RUN, n_cols)
            errors = self._run(left[begin:end], scales[begin:end], quants[begin:end], begin, grid)
            left[end:] -= self._factor[begin:end, end:].T @ errors
        restored = np.empty_like(quants)
        restored[self._order] = quants
        return np.ascontiguousarray(restored.T)

    def _run(self, left: Floats, scales: Floats, quants: Floats, begin: int, grid: Grid) -> Floats:
        """Round some columns, which are changed; answers the errors that the later ones shall take back."""
        errors = np.empty_like(left)
        for i in range(len(left)):
            flat = scales[i] == 0
            wanted = np.where(flat, np.float32(0), left[i] / np.where(flat, np.float32(1), scales[i]))
            quants[i] = np.clip(np.rint(wanted), grid.least, grid.greatest)
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
    roots = np.sqrt(weights[backwards]).astype(np.float32)
    matrix = products[np.ix_(backwards, backwards)]
    matrix *= (1 - _SHRINK) / np.float32(mean)
    matrix /= roots
    matrix /= roots[:, None]
    np.fill_diagonal(matrix, 1)
    _triangle(matrix)
    matrix *= roots[:, None]
    _invert(matrix)
    return np.ascontiguousarray(matrix[::-1, ::-1])


def _triangle(matrix: Floats) -> None:
    """Cholesky's lower factor, in the place of the matrix. In blocks, as OpenBLAS's own ends the process for matrices
    of 16384 columns. Raises `LinAlgError` where there is none."""
    n = len(matrix)
    for begin in range(0, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        corner = matrix[begin:end, begin:end] = np.linalg.cholesky(matrix[begin:end, begin:end])
        matrix[begin:end, end:] = 0
        if end < n:
            below = matrix[end:, begin:end] = matrix[end:, begin:end] @ np.linalg.inv(corner).T
            for at in range(end, n, _BLOCK):
                matrix[at:, at : at + _BLOCK] -= below[at - end :] @ below[at - end : at - end + _BLOCK].T


def _invert(triangle: Floats) -> None:
    """A lower triangle's inverse, in its place."""
    for begin in range(0, len(triangle), _BLOCK):
        end = min(begin + _BLOCK, len(triangle))
        corner = triangle[begin:end, begin:end] = np.linalg.inv(triangle[begin:end, begin:end])
        triangle[begin:end, :begin] = -corner @ (triangle[begin:end, :begin] @ triangle[:begin, :begin])
