"""Matrices as `MatMulNBits` and `GatherBlockQuantized` want them: a row of the matrix is a row of blocks."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeinfer.converters.sources import SourceTensor
from edgeinfer.converters.to_onnx import forms
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["Correction", "Matrix", "RowMatrices"]


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
    blocks). Of 32: ``q`` are its floats (rows, columns), ``scales`` None. ``zeros``: zero points of 4 bits (rows,
    bytes), where blocks have them."""

    n_rows: int
    n_cols: int
    bits: int
    block: int
    q: ir.Value
    scales: ir.Value | None
    correction: Correction | None
    zeros: ir.Value | None = None


class RowMatrices:
    """Each is written once, however often it is asked for: with tied embeddings the head is the table."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._made: dict[str, Matrix] = {}

    def matrix(self, name: str) -> Matrix:
        """A tensor of the source, in the form that it gets."""
        if name not in self._made:
            tensor, form = self._weights.matrix(name)
            if form is None:
                kept = self._weights.kept(name).value
                self._made[name] = Matrix(tensor.n_rows, tensor.n_cols, 32, 0, kept, None, None)
            else:
                self._made[name] = self._blocks(name, tensor, form)
        return self._made[name]

    def _blocks(self, name: str, tensor: SourceTensor, form: forms.Form) -> Matrix:
        room, n_rows = self._weights.data.room, tensor.n_rows
        n_blocks, blob = tensor.n_cols // form.block, form.block * form.bits // 8
        q = room(f"{name}.q", ir.DataType.UINT8, (n_rows, n_blocks, blob))
        scales = room(f"{name}.scales", ir.DataType.FLOAT, (n_rows, n_blocks))
        n = tensor.n_cols // forms.OFFSET_STEP
        n_groups = -(-n // forms.CORRECTION_BLOCK)
        offsets = offset_scales = None
        if form.corrected:
            offsets = room(f"{name}.correction.q", ir.DataType.UINT8, (n_rows, n))
            offset_scales = room(f"{name}.correction.scales", ir.DataType.FLOAT, (n_rows, n_groups))
        n_bytes = -(-n_blocks // 2)
        zeros = room(f"{name}.zeros", ir.DataType.UINT8, (n_rows, n_bytes)) if form.zero_points else None
        for first, parts in self._weights.part_pieces(name, form):
            q.write(parts.q, first * n_blocks * blob)
            scales.write(parts.scales, first * n_blocks * 4)
            if parts.zeros is not None and zeros:
                zeros.write(forms.packed_zeros(parts.zeros), first * n_bytes)
            if parts.offsets is not None and offsets and offset_scales:
                kept, kept_scales = forms.quantize_offsets(parts.offsets, forms.CORRECTION_BLOCK)
                back = forms.restored_offsets(kept, kept_scales, forms.CORRECTION_BLOCK)
                self._weights.measures.rounded(parts.offsets, back)
                offsets.write(kept, first * n)
                offset_scales.write(kept_scales, first * n_groups * 4)
        self._weights.measures.stored(tensor, form, n_groups)
        correction = None
        if offsets and offset_scales:
            correction = Correction(offsets.value, offset_scales.value, n, forms.CORRECTION_BLOCK)
        points = zeros.value if zeros else None
        return Matrix(n_rows, tensor.n_cols, form.bits, form.block, q.value, scales.value, correction, points)
