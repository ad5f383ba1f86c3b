"""Linear as `DequantizeLinear` and `MatMul`, with the offsets of blocks as a second, thirty-two times narrower pair."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.to_onnx.column_matrices import ColumnMatrices, Columns
from edgeinfer.converters.to_onnx.forms import OFFSET_STEP
from edgeinfer.converters.to_onnx.graph import Nodes, attribute, constant, rewrite
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["LinearQDQ"]


class LinearQDQ(ir.passes.InPlacePass):
    """Runtimes fold each pair into a product with packed weights. Sums of 32 inputs are made once for all products with
    one input."""

    def __init__(self, weights: Weights, matrices: ColumnMatrices) -> None:
        self._weights = weights
        self._matrices = matrices
        self._sums: dict[ir.Value, ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, rewrite(model, "Linear", self._linear))

    def _linear(self, node: ir.Node, add: Nodes) -> ir.Value:
        x, name, bias = node.inputs[0], node.name or "", attribute(node, "bias")
        matrix = self._matrices.matrix(attribute(node, "tensor"))
        y = _product(x, matrix, name, add)
        if matrix.offsets is not None and x is not None:
            sums = self._block_sums(x, matrix, matrix.offsets, add)
            y = add("Add", y, _product(sums, matrix.offsets, f"{name}.correction", add), name=f"{name}.corrected")
        if bias:
            y = add("Add", y, self._weights.vector(bias), name=f"{name}.biased")
        return y

    def _block_sums(self, x: ir.Value, matrix: Columns, offsets: Columns, add: Nodes) -> ir.Value:
        if x not in self._sums:
            n = matrix.n_cols // OFFSET_STEP
            blocks = add.reshape(x, [1, -1, n, OFFSET_STEP], f"{x.name}.blocks")
            axes = constant("axis.last", np.array([-1]))
            sums = add("ReduceSum", blocks, axes, name=f"{x.name}.block_sums", keepdims=0)
            if offsets.n_cols > n:
                pads = constant(f"pads.{offsets.n_cols - n}", np.array([0, 0, 0, 0, 0, offsets.n_cols - n]))
                sums = add("Pad", sums, pads, name=f"{x.name}.padded_sums")
            self._sums[x] = sums
        return self._sums[x]


def _product(x: ir.Value | None, matrix: Columns, name: str, add: Nodes) -> ir.Value:
    if matrix.scales is None:
        columns = add("Transpose", matrix.q.value, name=f"{name}.columns", perm=[1, 0])
        columns = add("Cast", columns, name=f"{name}.floats", to=ir.DataType.FLOAT)
    elif matrix.block:
        columns = add(
            "DequantizeLinear",
            matrix.q.value,
            matrix.scales.value,
            name=f"{name}.floats",
            axis=0,
            block_size=matrix.block,
        )
    else:
        zeros = () if matrix.zeros is None else (matrix.zeros.value,)
        columns = add("DequantizeLinear", matrix.q.value, matrix.scales.value, *zeros, name=f"{name}.floats", axis=1)
    return add("MatMul", x, columns, name=name)
