"""LayerNorm as ONNX's own operator."""

from __future__ import annotations

import onnx_ir as ir

from edgeinfer.converters.to_onnx.graph import Nodes, attribute, rewrite
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["LayerNorm"]


class LayerNorm(ir.passes.InPlacePass):
    def __init__(self, weights: Weights, eps: float) -> None:
        self._weights = weights
        self._eps = eps

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, rewrite(model, "LayerNorm", self._norm))

    def _norm(self, node: ir.Node, add: Nodes) -> ir.Value:
        weight, bias = (self._weights.vector(f"{attribute(node, 'tensor')}.{end}") for end in ("weight", "bias"))
        x, name = node.inputs[0], node.name or ""
        return add("LayerNormalization", x, weight, bias, name=name, axis=-1, epsilon=self._eps)
