"""AttendAll as `MultiHeadAttention`, with `RotaryEmbedding` before it where positions are rotated. Nothing is masked,
so that the operator may read keys and values in blocks, and never writes a score for each pair of tokens."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.to_onnx.graph import CONTRIB, Nodes, constant, rewrite
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["AttentionWhole"]


class AttentionWhole(ir.passes.InPlacePass):
    def __init__(self, encoder: Decoder, weights: Weights, *, rotated: bool) -> None:
        self._sizes = encoder.sizes
        self._rope = encoder.rope
        self._weights = weights
        self._rotated = rotated
        self._tables: list[ir.Value] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, rewrite(model, "AttendAll", self._attention))

    def _attention(self, node: ir.Node, add: Nodes) -> ir.Value:
        name, sizes = node.name or "", self._sizes
        q, k, v = node.inputs
        if self._rotated:
            q, k = self._turned(q, f"{name}.q", add), self._turned(k, f"{name}.k", add)
        scale, n_heads = sizes.attention_scale, sizes.n_heads
        return add("MultiHeadAttention", q, k, v, name=name, domain=CONTRIB, num_heads=n_heads, scale=scale)

    def _turned(self, x: ir.Value | None, name: str, add: Nodes) -> ir.Value:
        """The first token is at position 0."""
        if not self._tables:
            shape = (self._sizes.n_ctx_train, self._rope.head_dim // 2)
            self._tables = [
                self._weights.table(f"rope.{part}", (pair[i] for pair in self._rope.tables(shape[0])), shape)
                for i, part in enumerate(("cos", "sin"))
            ]
        first = constant("index.0", np.array([0]))
        return add("RotaryEmbedding", x, first, *self._tables, name=name, domain=CONTRIB, interleaved=0)
