"""Norm as `SimplifiedLayerNormalization`, which every provider of ONNX Runtime has."""

from __future__ import annotations

import onnx_ir as ir

from edgeinfer.converters.to_onnx.graph import Nodes, attribute, rewrite
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["NormContrib"]


class NormContrib(ir.passes.InPlacePass):
    def __init__(self, weights: Weights, eps: float, head_dim: int) -> None:
        self._weights = weights
        self._eps = eps
        self._head_dim = head_dim

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, rewrite(model, "Norm", self._norm))

    def _norm(self, node: ir.Node, add: Nodes) -> ir.Value:
        x, name, heads = node.inputs[0], node.name or "", attribute(node, "heads")
        weight = self._weights.vector(attribute(node, "tensor"))
        if heads and x is not None:
            x = add.reshape(x, [0, 0, heads, self._head_dim], f"{name}.heads")
        y = add("SimplifiedLayerNormalization", x, weight, name=name, axis=-1, epsilon=self._eps, stash_type=1)
        return add.reshape(y, [0, 0, heads * self._head_dim], f"{name}.joined") if heads else y
