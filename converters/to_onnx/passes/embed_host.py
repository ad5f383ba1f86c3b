"""Embed as an input, ``embeddings``: the host looks rows up, and scales them."""

from __future__ import annotations

import onnx_ir as ir

from edgeinfer.converters.to_onnx.graph import Nodes, rewrite, typed

__all__ = ["EmbedHost"]


class EmbedHost(ir.passes.InPlacePass):
    """Takes the place of ``input_ids``."""

    def __init__(self, n_tokens: int, n_embd: int) -> None:
        self._embeddings = typed("embeddings", ir.DataType.FLOAT, [1, n_tokens, n_embd])

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        def embeddings(node: ir.Node, add: Nodes) -> ir.Value:  # noqa: ARG001
            return self._embeddings

        found = rewrite(model, "Embed", embeddings)
        model.graph.inputs[:] = [self._embeddings]
        return ir.passes.PassResult(model, found)
