"""Linear as `MatMulNBits`, with the offsets of blocks as a second, thirty-two times narrower product."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.to_onnx.forms import OFFSET_STEP
from edgeinfer.converters.to_onnx.graph import CONTRIB, Nodes, attribute, constant, rewrite
from edgeinfer.converters.to_onnx.row_matrices import Correction, Matrix, RowMatrices
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["LinearNBits"]

_INT8_INPUTS = 4
"""Accuracy level of ONNX Runtime: inputs are rounded to 8 bits a block, as in llama.cpp; products are integers."""


class LinearNBits(ir.passes.InPlacePass):
    """Sums of 32 inputs are made once for all products with one input."""

    def __init__(self, weights: Weights, matrices: RowMatrices) -> None:
        self._weights = weights
        self._matrices = matrices
        self._sums: dict[ir.Value, ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, rewrite(model, "Linear", self._linear))

    def _linear(self, node: ir.Node, add: Nodes) -> ir.Value:
        x, name, bias = node.inputs[0], node.name or "", attribute(node, "bias")
        matrix = self._matrices.matrix(attribute(node, "tensor"))
        if matrix.scales is None:
            y = _floats(x, matrix, name, add)
        else:
            y = _product(x, matrix.q, matrix.scales, (matrix.n_rows, matrix.n_cols), matrix, name, add)
        if matrix.correction is not None and x is not None:
            corrected = self._correction(x, matrix, matrix.correction, name, add)
            y = add("Add", y, corrected, name=f"{name}.corrected")
        if bias:
            y = add("Add", y, self._weights.vector(bias), name=f"{name}.biased")
        return y

    def _correction(self, x: ir.Value, matrix: Matrix, correction: Correction, name: str, add: Nodes) -> ir.Value:
        at = f"{name}.correction"
        if x not in self._sums:
            blocks = add.reshape(x, [0, 0, correction.n, OFFSET_STEP], f"{x.name}.blocks")
            axes = constant("axis.last", np.array([-1]))
            self._sums[x] = add("ReduceSum", blocks, axes, name=f"{x.name}.block_sums", keepdims=0)
        q, n_blocks = correction.q, -(-correction.n // correction.block)
        padding = n_blocks * correction.block - correction.n
        if padding:
            # The operator wants whole blocks; the file has none that are empty. Folded when a session opens.
            ends = constant(f"pads.{padding}", np.array([0, 0, 0, padding]))
            q = add("Pad", q, ends, constant("zero.uint8", np.uint8(0)), name=f"{at}.padded")
        q = add.reshape(q, [0, n_blocks, correction.block], f"{at}.blocks")
        return _product(self._sums[x], q, correction.scales, (matrix.n_rows, correction.n), correction, at, add)


def _product(
    x: ir.Value | None,
    q: ir.Value,
    scales: ir.Value,
    shape: tuple[int, int],
    form: Matrix | Correction,
    name: str,
    add: Nodes,
) -> ir.Value:
    zeros = (form.zeros,) if isinstance(form, Matrix) and form.zeros is not None else ()
    return add(
        "MatMulNBits",
        *(x, q, scales, *zeros),
        name=name,
        domain=CONTRIB,
        N=shape[0],
        K=shape[1],
        bits=form.bits if isinstance(form, Matrix) else 8,
        block_size=form.block,
        accuracy_level=_INT8_INPUTS,
    )


def _floats(x: ir.Value | None, matrix: Matrix, name: str, add: Nodes) -> ir.Value:
    """Folded into one float matrix when a session opens."""
    columns = add("Transpose", matrix.q, name=f"{name}.columns", perm=[1, 0])
    if matrix.q.dtype != ir.DataType.FLOAT:
        columns = add("Cast", columns, name=f"{name}.floats", to=ir.DataType.FLOAT)
    return add("MatMul", x, columns, name=name)
