"""Matrices as `DequantizeLinear` and `MatMul` want them: transposed, (columns, rows), signed, blocks down the columns.
What accelerators read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeinfer.converters.sources import Bytes, SourceTensor
from edgeinfer.converters.to_onnx import forms
from edgeinfer.converters.to_onnx.data_file import Region
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["OFFSETS_MULTIPLE", "ColumnMatrices", "Columns"]

OFFSETS_MULTIPLE = 16
"""OpenVINO's products of 8-bit weights take no other inner dimensions."""


@dataclass(frozen=True, slots=True)
class Columns:
    """A matrix as initializers. ``q``: int4 or int8 (columns, rows); ``scales`` float32 (columns / block, rows), or,
    where ``block`` is 0, one for each row, (rows,), perhaps with ``zeros``, int8 (rows,). Floats have no scales and are
    not transposed: (rows, columns). ``offsets``: one a block of 32 weights, as a matrix of its own, (columns / 32,
    rows) with columns of zeros behind them up to a whole number of `OFFSETS_MULTIPLE`."""

    n_rows: int
    n_cols: int
    q: Region
    scales: Region | None
    block: int = 0
    offsets: Columns | None = None
    zeros: Region | None = None


class ColumnMatrices:
    """Each is written once, for all graphs. Memory: the pages of one matrix in the file that is written."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._made: dict[str, Columns] = {}

    def matrix(self, name: str) -> Columns:
        """A tensor of the source, in the form that it gets."""
        if name not in self._made:
            tensor, form = self._weights.matrix(name)
            if form is None:
                self._made[name] = Columns(tensor.n_rows, tensor.n_cols, self._weights.kept(name), None)
            else:
                self._made[name] = self._blocks(name, tensor, form)
        return self._made[name]

    def _blocks(self, name: str, tensor: SourceTensor, form: forms.Form) -> Columns:
        room, n_rows, n_cols = self._weights.data.room, tensor.n_rows, tensor.n_cols
        packed = form.bits == 4 and n_rows % 2 == 0  # two rows share a byte
        q = room(f"{name}.q", ir.DataType.INT4 if packed else ir.DataType.INT8, (n_cols, n_rows))
        shape = (n_rows,) if form.whole_rows else (n_cols // form.block, n_rows)
        scales = room(f"{name}.scales", ir.DataType.FLOAT, shape)
        offsets = self._offsets(name, tensor) if form.corrected else None
        columns = q.mapped(np.uint8, (n_cols, n_rows // 2 if packed else n_rows))
        steps = scales.mapped(np.float32, (n_cols // form.block, n_rows))
        for first, parts in self._weights.part_pieces(name, form):
            signed = _signed(parts.q, form.bits)
            end = first + len(signed)
            if packed:
                columns[:, first // 2 : end // 2] = ((signed[0::2] & 15) | signed[1::2] << 4).T
            else:
                columns[:, first:end] = signed.T
            steps[:, first:end] = parts.scales.T
            if parts.offsets is not None and offsets is not None:
                self._write_offsets(offsets, parts.offsets, first)
        self._weights.measures.stored(tensor, form, 1)
        if form.whole_rows:  # ONNX Runtime makes them unsigned for some processors, and looks for zero points then
            zeros = self._weights.data.add(f"{name}.zeros", np.zeros(n_rows, np.int8))
            return Columns(n_rows, n_cols, q, scales, zeros=zeros)
        return Columns(n_rows, n_cols, q, scales, form.block, offsets)

    def _offsets(self, name: str, tensor: SourceTensor) -> Columns:
        room, n = self._weights.data.room, tensor.n_cols // forms.OFFSET_STEP
        n += -n % OFFSETS_MULTIPLE
        q = room(f"{name}.correction.q", ir.DataType.INT8, (n, tensor.n_rows))
        scales = room(f"{name}.correction.scales", ir.DataType.FLOAT, (tensor.n_rows,))
        return Columns(tensor.n_rows, n, q, scales)

    def _write_offsets(self, offsets: Columns, wanted: npt.NDArray[np.float32], first: int) -> None:
        """With one scale a row: blocked scales would need whole blocks."""
        n_rows, n = wanted.shape
        q, scales = forms.quantize_offsets(wanted, n)
        self._weights.measures.rounded(wanted, forms.restored_offsets(q, scales, n))
        offsets.q.mapped(np.uint8, (offsets.n_cols, offsets.n_rows))[:n, first : first + n_rows] = (q ^ 128).T
        if offsets.scales:
            offsets.scales.write(scales, first * 4)


def _signed(q: Bytes, bits: int) -> Bytes:
    """Weights (rows, columns) as two's complement in a byte each."""
    if bits == 8:
        whole: Bytes = q.reshape(len(q), -1) ^ np.uint8(128)
        return whole
    pairs = np.stack([q & 15, q >> 4], axis=-1).reshape(len(q), -1)
    signed: Bytes = pairs - np.uint8(8)
    return signed
