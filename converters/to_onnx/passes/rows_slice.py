"""Rows as a slice: logits of the tokens from ``logits_from`` on, an input that may be left out (0: all)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.to_onnx.graph import Nodes, constant, rewrite

__all__ = ["RowsSlice"]

_END = np.iinfo(np.int64).max


class RowsSlice(ir.passes.InPlacePass):
    """Negative values count from the end, so -1 gives the last token's alone."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        first = constant("logits_from", np.array([0]))

        def rows(node: ir.Node, add: Nodes) -> ir.Value:
            ends, axes = constant("rows.end", np.array([_END])), constant("axis.1", np.array([1]))
            return add("Slice", node.inputs[0], first, ends, axes, name=node.name or "")

        found = rewrite(model, "Rows", rows)
        if found:
            model.graph.inputs.append(first)  # an initializer that is an input too is a default
        return ir.passes.PassResult(model, found)
