"""Rows as nothing: every token gets its logits. Graphs of fixed shapes choose none."""

from __future__ import annotations

import onnx_ir as ir

from edgeinfer.converters.to_onnx.graph import rewrite

__all__ = ["RowsAll"]


class RowsAll(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        def rows(node: ir.Node, _add: object) -> ir.Value:
            (x,) = node.inputs
            if x is None:
                raise ValueError(f"{node.name} has no input")
            return x

        return ir.passes.PassResult(model, rewrite(model, "Rows", rows))
