"""AddRows: a text takes the first rows of a table of positions, and the first alone of a table of types, for it is of
one type."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.to_onnx.graph import Nodes, attribute, constant, rewrite
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["AddedRows"]


class AddedRows(ir.passes.InPlacePass):
    def __init__(self, weights: Weights, width: int) -> None:
        self._weights = weights
        self._width = width

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, rewrite(model, "AddRows", self._add))

    def _add(self, node: ir.Node, add: Nodes) -> ir.Value:
        x, name, tensor = node.inputs[0], node.name or "", attribute(node, "tensor")
        if attribute(node, "first"):
            row = self._weights.floats(tensor).reshape(-1, self._width)[:1]
            rows = self._weights.table(f"{tensor}.first", iter([row]), (1, self._width))
        else:
            axes = [constant(f"index.{at}", np.array([at])) for at in (0, 1, 2)]
            shape = add("Shape", x, name=f"{name}.shape")
            n_tokens = add("Slice", shape, axes[1], axes[2], axes[0], name=f"{name}.n_tokens")
            table = self._weights.vector(tensor)
            rows = add("Slice", table, axes[0], n_tokens, axes[0], name=f"{name}.rows")
        return add("Add", x, rows, name=name)
