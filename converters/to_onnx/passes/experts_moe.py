"""Experts as `MoE`, or as `QMoE` where their weights have few bits. Only those that are chosen are computed."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.to_onnx.expert_matrices import ExpertMatrices
from edgeinfer.converters.to_onnx.graph import CONTRIB, Nodes, attribute, rewrite

__all__ = ["ExpertsMoE"]

_INTERLEAVED = 1
_INT8_INPUTS = 4


class ExpertsMoE(ir.passes.InPlacePass):
    def __init__(self, decoder: Decoder, matrices: ExpertMatrices) -> None:
        self._decoder = decoder
        self._matrices = matrices

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, rewrite(model, "Experts", self._experts))

    def _experts(self, node: ir.Node, add: Nodes) -> ir.Value:
        experts, name = self._decoder.experts, node.name or ""
        x, router = node.inputs
        if experts is None or router is None:
            raise ValueError(f"{name} has no experts")
        first, last = self._matrices.layer(f"blk.{attribute(node, 'layer')}", experts.n)
        logits = add.reshape(router, [-1, experts.n], f"{name}.router")
        # activation_beta is what is added to up: gpt-oss adds 1, others nothing.
        kind: dict[str, Any] = {
            "k": experts.n_used,
            "activation_type": "swiglu",
            "swiglu_fusion": _INTERLEAVED,
            "activation_alpha": 1.0,
            "activation_beta": 0.0,
            "normalize_routing_weights": 1,
        }
        if first.scales is None or last.scales is None:
            matrices = [self._floats(matrix.q, add) for matrix in (first, last)]
            inputs = (x, logits, matrices[0], None, matrices[1])
            return add("MoE", *inputs, name=name, domain=CONTRIB, **kind)
        return add(
            "QMoE",
            *(x, logits, first.q, first.scales, None, last.q, last.scales),
            name=name,
            domain=CONTRIB,
            expert_weight_bits=first.bits,
            fc1_expert_weight_bits=first.bits,
            fc2_expert_weight_bits=last.bits,
            block_size=first.block,
            accuracy_level=_INT8_INPUTS,
            **kind,
        )

    def _floats(self, matrix: ir.Value, add: Nodes) -> ir.Value:
        """Folded when a session opens."""
        if matrix.dtype == ir.DataType.FLOAT:
            return matrix
        return add("Cast", matrix, name=f"{matrix.name}.floats", to=ir.DataType.FLOAT)
