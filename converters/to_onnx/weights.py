"""Tensors of a source on their way into graphs: read in pieces of rows, in the graph's order of rows, as parts of the
form that each gets. Owns which form that is; knows neither layouts of matrices (`row_matrices`, `column_matrices`) nor
nodes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.sources import Bytes, SourceTensor, TensorSource, pieces
from edgeinfer.converters.to_onnx import forms
from edgeinfer.converters.to_onnx.data_file import DataFile, Region
from edgeinfer.converters.to_onnx.head_order import HeadOrder
from edgeinfer.converters.to_onnx.measures import Measures
from edgeinfer.converters.to_onnx.mixture import Mixture
from edgeinfer.converters.to_onnx.requantize import values
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.onnx.package import TensorForm

__all__ = ["FLOAT_TYPES", "Weights"]

Floats = npt.NDArray[np.float32]
FLOAT_TYPES = {"F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16, "F32": ir.DataType.FLOAT}
_PIECE_BYTES = 8 << 20


class Weights:
    """``tensors`` says what became of each that was asked for. What several graphs ask for is in the file once."""

    def __init__(
        self,
        decoder: Decoder,
        source: TensorSource,
        data: DataFile,
        mixture: Mixture,
        measures: Measures,
        rounding: Rounding | None = None,
    ) -> None:
        self.data = data
        self.measures = measures
        self.tensors: dict[str, TensorForm] = {}
        self._source = source
        self._mixture = mixture
        self._rounding = rounding or Rounding()
        self._order = HeadOrder.of(decoder)
        self._small: dict[str, Region] = {}

    def floats(self, name: str) -> Floats:
        """A small tensor whole, as float32 of its own shape, its rows in the graph's order."""
        tensor = self._source.tensors[name]
        raw = self._source.rows(name, 0, tensor.n_rows)
        self.measures.read(raw.nbytes)
        found = values(tensor.type, raw).reshape(tensor.shape)
        return found[self._order.of_graph(len(found))] if self._order.concerns(name) else found

    def vector(self, name: str) -> ir.Value:
        """A norm's weights or a bias."""
        if name not in self._small:
            tensor = self._source.tensors[name]
            self.tensors[name] = TensorForm(tensor.made_from or tensor.type, "float", 0)
            self._small[name] = self.data.add(name, self.floats(name))
        return self._small[name].value

    def table(self, name: str, pieces: Iterator[Floats], shape: tuple[int, int]) -> ir.Value:
        """Something computed, such as cosines, in pieces of rows."""
        region, at = self.data.room(name, ir.DataType.FLOAT, shape), 0
        for piece in pieces:
            region.write(piece, at)
            at += piece.nbytes
        return region.value

    def matrix(self, name: str) -> tuple[SourceTensor, forms.Form | None]:
        """A matrix's shape, and the form that it gets; None: floats, as they are."""
        tensor = self._source.tensors[name]
        form = self._mixture.form(name, tensor)
        if form is None:
            self.tensors[name] = TensorForm(tensor.type, "float", 0)
            if self._mixture.quant_of(name, tensor).startswith("int") and tensor.n_cols % forms.OFFSET_STEP:
                self.measures.unfit(name)
        else:
            kind, block = (f"rows{form.bits}", 0) if form.whole_rows else (f"nbits{form.bits}", form.block)
            made_from = tensor.made_from or tensor.type
            self.tensors[name] = TensorForm(made_from, kind, block, form.corrected, form.zero_points)
        return tensor, form

    def kept(self, name: str) -> Region:
        """A matrix of floats as it is, written to the file."""
        tensor = self._source.tensors[name]
        region = self.data.room(name, FLOAT_TYPES[tensor.type], tensor.shape)
        for first, rows in self.raw_pieces(name):
            region.write(rows, first * tensor.row_bytes)
        self.measures.floats(tensor)
        return region

    def raw_pieces(self, name: str) -> Iterator[tuple[int, Bytes]]:
        """(first row, blocks of some rows) of a matrix. Pieces have an even number of rows where the matrix has."""
        tensor = self._source.tensors[name]
        turned = self._order.concerns(name)
        heads = self._order.dim if turned else 2
        for first, n_rows in pieces(tensor, _PIECE_BYTES, heads):
            rows = self._source.rows(name, first, n_rows)
            self.measures.read(rows.nbytes)
            yield first, rows[self._order.of_graph(n_rows)] if turned else rows

    def part_pieces(self, name: str, form: forms.Form) -> Iterator[tuple[int, forms.Parts]]:
        """(first row, parts of some rows) of a matrix in its form."""
        kind = self._source.tensors[name].type
        rounded = None if forms.KEPT.get(kind) == form else self._rounding.of(name, form)
        for first, rows in self.raw_pieces(name):
            if rounded is None:
                yield first, forms.decoded(kind, rows)
                continue
            exact = values(kind, rows)
            parts, got = rounded(exact)
            self.measures.requantized(exact, got)
            yield first, parts
