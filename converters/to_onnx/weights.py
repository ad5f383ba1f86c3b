"""Tensors of a source as initializers: read in pieces of rows, put into the form that is wanted, written to the data
file. Owns which form each tensor gets; knows no node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.sources import Bytes, SourceTensor, TensorSource, pieces
from edgeinfer.converters.to_onnx import forms
from edgeinfer.converters.to_onnx.data_file import DataFile
from edgeinfer.converters.to_onnx.measures import Measures
from edgeinfer.converters.to_onnx.requantize import Quant, requantized, values, wanted
from edgeinfer.onnx.package import TensorForm

__all__ = ["Correction", "Matrix", "Weights"]

Floats = npt.NDArray[np.float32]
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Correction:
    """Offsets of a matrix: ``q`` uint8 (rows, n) around 128 and ``scales`` (rows, ceil(n / block))."""

    q: ir.Value
    scales: ir.Value
    n: int
    block: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix as initializers. Of ``bits`` 4 and 8: ``q`` (rows, blocks, bytes of a block) and ``scales`` (rows,
    blocks). Of 32: ``q`` are its floats (rows, columns), ``scales`` None."""

    n_rows: int
    n_cols: int
    bits: int
    block: int
    q: ir.Value
    scales: ir.Value | None
    correction: Correction | None


class Weights:
    """``done_bytes`` counts what was read of the source, for the progress; ``tensors`` says what became of each."""

    def __init__(
        self, decoder: Decoder, source: TensorSource, data: DataFile, quant: Quant, measures: Measures
    ) -> None:
        self._decoder = decoder
        self._source = source
        self._data = data
        self._quant = quant
        self._measures = measures
        self._matrices: dict[str, Matrix] = {}
        self.tensors: dict[str, TensorForm] = {}

    def has(self, name: str) -> bool:
        return name in self._source.tensors

    def floats(self, name: str) -> Floats:
        """A small tensor whole, as float32 of its own shape, its rows in the graph's order."""
        tensor = self._source.tensors[name]
        raw = self._source.rows(name, 0, tensor.n_rows)
        self._measures.read(raw.nbytes)
        found = values(tensor.type, raw).reshape(tensor.shape)
        return found[self._order(name, len(found))] if self._reordered(name) else found

    def vector(self, name: str) -> ir.Value:
        """A norm's weights or a bias."""
        self.tensors[name] = TensorForm(self._source.tensors[name].type, "float", 0)
        return self._data.add(name, self.floats(name))

    def table(self, name: str, pieces: Iterator[Floats], shape: tuple[int, int]) -> ir.Value:
        """Something computed, such as cosines, in pieces of rows."""
        region, at = self._data.room(name, ir.DataType.FLOAT, shape), 0
        for piece in pieces:
            region.write(piece, at)
            at += piece.nbytes
        return region.value

    def matrix(self, name: str) -> Matrix:
        """A matrix in the form that suits it; written once, however often it is asked for."""
        if name not in self._matrices:
            tensor = self._source.tensors[name]
            form = wanted(name, tensor, self._quant)
            made = self._plain(name, tensor) if form is None else self._in_blocks(name, tensor, form)
            self._matrices[name] = made
            kind = "float" if form is None else f"nbits{form.bits}"
            block = 0 if form is None else form.block
            self.tensors[name] = TensorForm(tensor.type, kind, block, form is not None and form.corrected)
        return self._matrices[name]

    def _plain(self, name: str, tensor: SourceTensor) -> Matrix:
        kinds = {"F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16, "F32": ir.DataType.FLOAT}
        region = self._data.room(name, kinds[tensor.type], tensor.shape)
        for first, rows in self._pieces(name, tensor):
            region.write(rows, first * tensor.row_bytes)
        return Matrix(tensor.n_rows, tensor.n_cols, 32, 0, region.value, None, None)

    def _in_blocks(self, name: str, tensor: SourceTensor, form: forms.Form) -> Matrix:
        n_rows, n_blocks, blob = tensor.n_rows, tensor.n_cols // form.block, form.block * form.bits // 8
        q = self._data.room(f"{name}.q", ir.DataType.UINT8, (n_rows, n_blocks, blob))
        scales = self._data.room(f"{name}.scales", ir.DataType.FLOAT, (n_rows, n_blocks))
        n, block = tensor.n_cols // forms.OFFSET_STEP, forms.CORRECTION_BLOCK
        offsets_q = offsets_scales = None
        if form.corrected:
            offsets_q = self._data.room(f"{name}.correction.q", ir.DataType.UINT8, (n_rows, n))
            n_scales = -(-n // block)
            offsets_scales = self._data.room(f"{name}.correction.scales", ir.DataType.FLOAT, (n_rows, n_scales))
        for first, rows in self._pieces(name, tensor):
            parts = self._parts(tensor, rows, form)
            q.write(parts.q, first * n_blocks * blob)
            scales.write(parts.scales, first * n_blocks * 4)
            if parts.offsets is not None and offsets_q and offsets_scales:
                kept, kept_scales = forms.quantize_offsets(parts.offsets)
                self._measures.rounded(name, tensor, parts.offsets, forms.restored_offsets(kept, kept_scales))
                offsets_q.write(kept, first * n)
                offsets_scales.write(kept_scales, first * kept_scales.shape[1] * 4)
        correction = None
        if offsets_q and offsets_scales:
            correction = Correction(offsets_q.value, offsets_scales.value, n, block)
        self._measures.stored(tensor, form)
        return Matrix(n_rows, tensor.n_cols, form.bits, form.block, q.value, scales.value, correction)

    def _parts(self, tensor: SourceTensor, rows: Bytes, form: forms.Form) -> forms.Parts:
        if forms.KEPT.get(tensor.type) == form:
            return forms.decoded(tensor.type, rows)
        wanted_values = values(tensor.type, rows)
        parts, got = requantized(wanted_values, form)
        self._measures.requantized(wanted_values, got)
        return parts

    def _pieces(self, name: str, tensor: SourceTensor) -> Iterator[tuple[int, Bytes]]:
        """(first row, rows) of a matrix, in the graph's order."""
        heads = self._decoder.sizes.head_dim if self._reordered(name) else 1
        for first, n_rows in pieces(tensor, _PIECE_BYTES, heads):
            rows = self._source.rows(name, first, n_rows)
            self._measures.read(rows.nbytes)
            yield first, rows[self._order(name, n_rows)] if heads > 1 else rows

    def _reordered(self, name: str) -> bool:
        return self._decoder.interleaved_rope and name.split(".")[-2] in ("attn_q", "attn_k")

    def _order(self, name: str, n_rows: int) -> npt.NDArray[np.int64]:  # noqa: ARG002
        """Rows of whole heads in pairs (2i, 2i + 1) as halves (i, i + half): what the graph's rope rotates together.
        Exact, as blocks lie along rows."""
        head = self._decoder.sizes.head_dim
        return np.arange(n_rows).reshape(-1, head // 2, 2).transpose(0, 2, 1).reshape(-1)


