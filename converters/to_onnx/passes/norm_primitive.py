"""Norm in the operators that every runtime has, in the order that runtimes know as one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.to_onnx.graph import Nodes, attribute, constant, rewrite
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["NormPrimitive"]


class NormPrimitive(ir.passes.InPlacePass):
    """x / sqrt(mean(x²) + eps) * weight over the last axis, or over each head."""

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
            x = add.reshape(x, [1, -1, heads, self._head_dim], f"{name}.heads")
        squares = add("Pow", x, constant("two", np.float32(2)), name=f"{name}.squares")
        mean = add("ReduceMean", squares, constant("axis.last", np.array([-1])), name=f"{name}.mean", keepdims=1)
        shifted = add("Add", mean, constant("eps", np.float32(self._eps)), name=f"{name}.shifted")
        y = add("Div", x, add("Sqrt", shifted, name=f"{name}.root"), name=f"{name}.divided")
        y = add("Mul", y, weight, name=name)
        return add.reshape(y, [1, -1, heads * self._head_dim], f"{name}.joined") if heads else y
