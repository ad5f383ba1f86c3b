"""Embed as `GatherBlockQuantized`: rows are looked up as they are stored, and only those turned into floats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.to_onnx.graph import CONTRIB, Nodes, attribute, constant, rewrite
from edgeinfer.converters.to_onnx.row_matrices import Correction, Matrix, RowMatrices

__all__ = ["EmbedGather"]


class EmbedGather(ir.passes.InPlacePass):
    def __init__(self, matrices: RowMatrices) -> None:
        self._matrices = matrices

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, rewrite(model, "Embed", self._embed))

    def _embed(self, node: ir.Node, add: Nodes) -> ir.Value:
        ids, name, scale = node.inputs[0], node.name or "", attribute(node, "scale")
        matrix = self._matrices.matrix(attribute(node, "tensor"))
        x = self._gathered(ids, matrix, name, add)
        if scale != 1.0:
            x = add("Mul", x, constant(f"{name}.factor", np.float32(scale).reshape(1)), name=f"{name}.scaled")
        return x

    def _gathered(self, ids: ir.Value | None, matrix: Matrix, name: str, add: Nodes) -> ir.Value:
        if matrix.scales is None:
            rows = add("Gather", matrix.q, ids, name=f"{name}.rows")
            return add("Cast", rows, name=f"{name}.floats", to=ir.DataType.FLOAT)
        # The table has three dimensions, as the head that shares it must; so must its scales here.
        scales = add.reshape(matrix.scales, [matrix.n_rows, -1, 1], f"{name}.scales")
        blocks = _gather(matrix.q, ids, scales, matrix.bits, matrix.block, 2, name, add)
        if matrix.correction is not None:
            blocks = add.reshape(blocks, [0, 0, matrix.correction.n, -1], f"{name}.blocks")
            blocks = add("Add", blocks, self._offsets(ids, matrix.correction, name, add), name=f"{name}.corrected")
        return add.reshape(blocks, [0, 0, matrix.n_cols], f"{name}.row")

    def _offsets(self, ids: ir.Value | None, correction: Correction, name: str, add: Nodes) -> ir.Value:
        at = f"{name}.correction"
        offsets = _gather(correction.q, ids, correction.scales, 8, correction.block, 1, at, add)
        return add.reshape(offsets, [0, 0, correction.n, 1], f"{at}.columns")


def _gather(
    table: ir.Value, ids: ir.Value | None, scales: ir.Value, bits: int, block: int, axis: int, name: str, add: Nodes
) -> ir.Value:
    return add(
        "GatherBlockQuantized",
        table,
        ids,
        scales,
        name=name,
        domain=CONTRIB,
        bits=bits,
        block_size=block,
        gather_axis=0,
        quantize_axis=axis,
    )
