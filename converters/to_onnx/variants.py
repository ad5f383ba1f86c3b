"""The variants of a package: which passes turn a plan into which graph."""

from __future__ import annotations

import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.to_onnx.graph import PLAN
from edgeinfer.converters.to_onnx.passes.attention_gqa import AttentionGQA
from edgeinfer.converters.to_onnx.passes.embed_gather import EmbedGather
from edgeinfer.converters.to_onnx.passes.linear_nbits import LinearNBits
from edgeinfer.converters.to_onnx.passes.norm_contrib import NormContrib
from edgeinfer.converters.to_onnx.passes.rows_slice import RowsSlice
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["dynamic"]


def dynamic(plan: ir.Model, decoder: Decoder, weights: Weights) -> ir.Model:
    """Any number of tokens, weights in blocks, the cache as inputs and outputs: variants ``cpu`` and ``cuda``."""
    passes = ir.passes.Sequential(
        EmbedGather(weights),
        NormContrib(weights, decoder.sizes.norm_eps, decoder.sizes.head_dim),
        AttentionGQA(decoder, weights),
        RowsSlice(),
        LinearNBits(weights),
    )
    return _finished(passes(plan).model)


def _finished(model: ir.Model) -> ir.Model:
    left = sorted({node.op_type for node in model.graph if node.domain == PLAN})
    if left:
        raise ValueError(f"no pass has replaced {', '.join(left)}")
    model.opset_imports.pop(PLAN, None)
    return model
