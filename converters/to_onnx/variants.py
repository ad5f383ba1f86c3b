"""The variants of a package: which passes turn a plan into which graph."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Bidirectional, Decoder
from edgeinfer.converters.to_onnx.column_matrices import ColumnMatrices
from edgeinfer.converters.to_onnx.expert_matrices import ExpertMatrices
from edgeinfer.converters.to_onnx.graph import PLAN
from edgeinfer.converters.to_onnx.passes.added_rows import AddedRows
from edgeinfer.converters.to_onnx.passes.attention_gqa import AttentionGQA
from edgeinfer.converters.to_onnx.passes.attention_primitive import AttentionPrimitive
from edgeinfer.converters.to_onnx.passes.attention_whole import AttentionWhole
from edgeinfer.converters.to_onnx.passes.embed_gather import EmbedGather
from edgeinfer.converters.to_onnx.passes.embed_host import EmbedHost
from edgeinfer.converters.to_onnx.passes.experts_moe import ExpertsMoE
from edgeinfer.converters.to_onnx.passes.integer_values import IntegerValues, Known
from edgeinfer.converters.to_onnx.passes.layer_norm import LayerNorm
from edgeinfer.converters.to_onnx.passes.linear_nbits import LinearNBits
from edgeinfer.converters.to_onnx.passes.linear_qdq import LinearQDQ
from edgeinfer.converters.to_onnx.passes.norm_contrib import NormContrib
from edgeinfer.converters.to_onnx.passes.norm_primitive import NormPrimitive
from edgeinfer.converters.to_onnx.passes.rows_all import RowsAll
from edgeinfer.converters.to_onnx.passes.rows_slice import RowsSlice
from edgeinfer.converters.to_onnx.row_matrices import RowMatrices
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["dynamic", "static"]


def dynamic(plan: ir.Model, decoder: Decoder, weights: Weights) -> ir.Model:
    """Any number of tokens, weights in blocks, the cache as inputs and outputs: variants ``cpu`` and ``cuda``."""
    matrices, sizes = RowMatrices(weights), decoder.sizes
    if decoder.bidirectional is not None:
        return _lowered(plan, _of_encoder(decoder, decoder.bidirectional, weights, matrices))
    passes = (
        EmbedGather(matrices),
        NormContrib(weights, sizes.norm_eps, sizes.head_dim),
        AttentionGQA(decoder, weights),
        ExpertsMoE(decoder, ExpertMatrices(weights)),
        RowsSlice(),
        LinearNBits(weights, matrices),
    )
    return _lowered(plan, passes)


def _of_encoder(
    encoder: Decoder, kind: Bidirectional, weights: Weights, matrices: RowMatrices
) -> tuple[ir.passes.InPlacePass, ...]:
    return (
        EmbedGather(matrices),
        AddedRows(weights, encoder.sizes.n_embd),
        LayerNorm(weights, encoder.sizes.norm_eps),
        AttentionWhole(encoder, weights, rotated=kind.rotated),
        LinearNBits(weights, matrices),
    )


def static(
    plan: ir.Model,
    decoder: Decoder,
    weights: Weights,
    matrices: ColumnMatrices,
    n_tokens: int,
    n_ctx: int,
    known: Known | None = None,
) -> ir.Model:
    """``n_tokens`` after at most ``n_ctx``, in plain operators: a graph of variant ``npu``. ``known``: what products
    take and give is stored as integers."""
    sizes = decoder.sizes
    passes = (
        EmbedHost(n_tokens, sizes.n_embd),
        NormPrimitive(weights, sizes.norm_eps, sizes.head_dim),
        AttentionPrimitive(decoder, n_tokens, n_ctx),
        RowsAll(),
        LinearQDQ(weights, matrices),
    )
    model = _lowered(plan, (*passes, *((IntegerValues(known),) if known else ())))
    model.graph.outputs[0].shape = ir.Shape([1, n_tokens, sizes.n_vocab])
    return model


def _lowered(plan: ir.Model, passes: Iterable[ir.passes.InPlacePass]) -> ir.Model:
    model = plan
    for each in passes:  # a Sequential would hide what a tensor's file raises
        model = each(model).model
    left = sorted({node.op_type for node in model.graph if node.domain == PLAN})
    if left:
        raise ValueError(f"no pass has replaced {', '.join(left)}")
    used = {node.domain for node in model.graph}
    for domain in [domain for domain in model.opset_imports if domain and domain not in used]:
        del model.opset_imports[domain]
    return model
