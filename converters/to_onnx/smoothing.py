"""Columns of activations that reach far made smaller, and the weights that they multiply larger, so that one range for
all columns leaves none of them nothing (Xiao et al., "SmoothQuant", arXiv:2211.10438). The product is the same: what
makes the activations is divided, a norm's weights or the rows of the matrix before.

Norms give all columns like values on any text, so theirs are evened out. Of what the feed-forward part makes, columns
are far on some words only: to widen those that a text did not show would be to clip another's, so only the farthest are
made smaller. A token's few "massive activations" (Sun et al., arXiv:2402.17762) are there.

Owns what can be divided, and by how much; a source shows the weights as they are then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.sources import Bytes, SourceTensor, TensorSource, pieces
from edgeinfer.converters.to_onnx.requantize import values

__all__ = ["Fold", "SmoothedSource", "Smoother", "folds"]

Floats = npt.NDArray[np.float32]
_PIECE_BYTES = 8 << 20
_SHARE = 0.5
"""Of an activation's reach that goes over to the weights: half, which leaves both as far."""
_FAR = 8.0
"""Times the median column's reach."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Activations that can be divided by column: ``maker`` is the tensor that makes them, a norm's weights or a matrix
    with a row for each, ``takers`` those with a column for each, ``values`` the names of all that is divided."""

    maker: str
    takers: tuple[str, ...]
    values: tuple[str, ...]
    of_norm: bool


def folds(decoder: Decoder) -> dict[str, Fold]:
    """By the activations' names."""
    found = {}
    for layer in range(decoder.sizes.n_layers):
        at = f"blk.{layer}"
        if decoder.pre_norms:
            for norm, takers in (("attn_norm", ("attn_q", "attn_k", "attn_v")), ("ffn_norm", ("ffn_gate", "ffn_up"))):
                matrices = tuple(f"{at}.{name}.weight" for name in takers)
                found[f"{at}.{norm}"] = Fold(f"{at}.{norm}.weight", matrices, (f"{at}.{norm}",), of_norm=True)
        divided = (f"{at}.ffn_gated", f"{at}.ffn_up", f"{at}.ffn_up.raw")
        found[f"{at}.ffn_gated"] = Fold(f"{at}.ffn_up.weight", (f"{at}.ffn_down.weight",), divided, of_norm=False)
    return found


class Smoother:
    """How far each column reaches, as values stream by, and what to divide it by."""

    def __init__(self, decoder: Decoder, source: TensorSource) -> None:
        self.folds = folds(decoder)
        self._source = source
        self._reach: dict[str, Floats] = {}

    def see(self, name: str, values: Floats) -> None:
        """Values ``(…, n_cols)``."""
        reach = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
        self._reach[name] = np.maximum(self._reach.get(name, reach), reach)

    def factors(self) -> dict[str, Floats]:
        """By the activations' names, float32 ``(n_cols,)``. Reads the weights that they multiply."""
        return {name: self._factors(self.folds[name], reach) for name, reach in self._reach.items()}

    def _factors(self, fold: Fold, reach: Floats) -> Floats:
        if not fold.of_norm:
            far = reach / max(_FAR * float(np.median(reach)), float(np.finfo(np.float32).tiny))
            divisors: Floats = np.maximum(np.float32(1), far) ** np.float32(_SHARE)
            return divisors
        weights = np.zeros(len(reach), np.float32)
        for name in fold.takers:
            tensor = self._source.tensors[name]
            for piece in pieces(tensor, _PIECE_BYTES):
                rows = values(tensor.type, self._source.rows(name, *piece))
                np.maximum(weights, np.abs(rows).max(axis=0), out=weights)
        known = (reach > 0) & (weights > 0)
        ratio = np.where(known, reach, 1).astype(np.float64) ** _SHARE / np.where(known, weights, 1) ** (1 - _SHARE)
        middle = np.exp(np.log(ratio[known]).mean()) if known.any() else 1.0
        found: Floats = np.where(known, ratio / middle, 1).astype(np.float32)
        return found


class SmoothedSource:
    """A source whose activations are divided by ``factors``, by the names of `folds`. What that changes is float32."""

    def __init__(self, source: TensorSource, decoder: Decoder, factors: Mapping[str, Floats]) -> None:
        self.label = source.label
        self._source = source
        self._by_column: dict[str, Floats] = {}
        self._by_row: dict[str, Floats] = {}
        known = folds(decoder)
        for name, divisors in factors.items():
            fold = known[name]
            inverse: Floats = np.float32(1) / divisors
            (self._by_column if fold.of_norm else self._by_row)[fold.maker] = inverse
            bias = fold.maker.removesuffix(".weight") + ".bias"
            if bias in source.tensors:
                self._by_column[bias] = inverse
            self._by_column |= dict.fromkeys(fold.takers, divisors)
        changed = {*self._by_column, *self._by_row}
        self.tensors = {
            name: SourceTensor(tensor.shape, "F32", 4 * tensor.n_cols, tensor.type) if name in changed else tensor
            for name, tensor in source.tensors.items()
        }

    def rows(self, name: str, first: int, n_rows: int) -> Bytes:
        found = self._source.rows(name, first, n_rows)
        columns, by_row = self._by_column.get(name), self._by_row.get(name)
        if columns is None and by_row is None:
            return found
        floats = values(self._source.tensors[name].type, found).astype(np.float32)
        if columns is not None:
            floats = floats * columns
        if by_row is not None:
            floats = floats * by_row[first : first + n_rows, None]
        return np.ascontiguousarray(floats).view(np.uint8).reshape(n_rows, -1)
