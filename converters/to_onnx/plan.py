"""A decoder as a graph of abstract operators, which passes replace by ones that a runtime has.

    Embed(input_ids)                    rows of ``tensor``, times ``scale``
    Norm(x)                             root mean square norm over the last axis, times ``tensor``; with ``heads``, over
                                        each head
    Linear(x)                           product with ``tensor`` (rows are outputs); ``bias``: a tensor's name or ""
    Attention(q, k, v)                  rope, the cache, scores, softmax, sum; ``layer``, ``windowed``
    Experts(x, router_logits)           the feed-forward parts that the router chooses for each token; ``layer``
    Rows(x)                             the rows that get logits

All else is ONNX already. Operators and values have the names of the tensors that they multiply by, less the suffix.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.to_onnx.graph import CONTRIB, PLAN, Nodes, capped, constant, register, typed

__all__ = ["OPSET", "plan"]

OPSET = 21
_IR_VERSION = 10


def plan(decoder: Decoder, tensors: Container[str]) -> ir.Model:
    """``tensors``: those that the source has, of which the optional ones decide about biases."""
    add = _Planner(decoder, tensors)
    input_ids = typed("input_ids", ir.DataType.INT64, [1, "n_tokens"])
    x = add("Embed", input_ids, name="token_embd", tensor="token_embd.weight", scale=decoder.sizes.embedding_scale)
    for layer in range(decoder.sizes.n_layers):
        x = add.layer(x, layer)
    x = add("Rows", x, name="rows")
    head = "token_embd.weight" if decoder.sizes.tied_embeddings else "output.weight"
    logits = add.ends(add("Linear", add.norm(x, "output_norm"), name="output", tensor=head, bias=""))
    logits.name, logits.type = "logits", ir.TensorType(ir.DataType.FLOAT)
    logits.shape = ir.Shape([1, "n_logits", decoder.sizes.n_vocab])
    graph = ir.Graph(
        [input_ids],
        [logits],
        nodes=add.made.nodes,
        opset_imports={"": OPSET, CONTRIB: 1, PLAN: 1},
        name=decoder.architecture,
    )
    register(graph, add.made.constants)
    return ir.Model(graph, ir_version=_IR_VERSION, producer_name="edgeinfer")


class _Planner:
    def __init__(self, decoder: Decoder, tensors: Container[str]) -> None:
        self.decoder = decoder
        self.tensors = tensors
        self.made = Nodes()

    def __call__(self, op_type: str, *inputs: ir.Value, name: str, **attributes: Any) -> ir.Value:
        return self.made(op_type, *inputs, name=name, domain=PLAN, **attributes)

    def norm(self, x: ir.Value, name: str, heads: int = 0) -> ir.Value:
        return self("Norm", x, name=name, tensor=f"{name}.weight", heads=heads)

    def linear(self, x: ir.Value, name: str) -> ir.Value:
        bias = f"{name}.bias" if f"{name}.bias" in self.tensors else ""
        return self("Linear", x, name=name, tensor=f"{name}.weight", bias=bias)

    def ends(self, logits: ir.Value) -> ir.Value:
        """What becomes of the head's products."""
        if self.decoder.logit_scale != 1.0:
            logits = self.scaled(logits, self.decoder.logit_scale, "output.scaled", "output.factor")
        return capped(logits, self.decoder.logit_cap, "output.capped", self.made) if self.decoder.logit_cap else logits

    def scaled(self, x: ir.Value, scale: float, name: str, factor: str) -> ir.Value:
        return self.made("Mul", x, constant(factor, np.float32(scale).reshape(1)), name=name)

    def layer(self, x: ir.Value, layer: int) -> ir.Value:
        at = f"blk.{layer}"
        attended = self.attention(self.before(x, f"{at}.attn_norm"), layer)
        x = self.added(x, attended, f"{at}.post_attention_norm", f"{at}.attn")
        fed = self.feed_forward(self.before(x, f"{at}.ffn_norm"), layer)
        return self.added(x, fed, f"{at}.post_ffw_norm", f"{at}.ffn")

    def before(self, x: ir.Value, norm: str) -> ir.Value:
        return self.norm(x, norm) if self.decoder.pre_norms else x

    def added(self, x: ir.Value, more: ir.Value, norm: str, name: str) -> ir.Value:
        """A layer's input with what a part of it adds."""
        if self.decoder.post_norms:
            more = self.norm(more, norm)
        if self.decoder.residual_scale != 1.0:
            more = self.scaled(more, self.decoder.residual_scale, f"{name}_scaled", "residual.factor")
        return self.made("Add", x, more, name=f"{name}_residual")

    def attention(self, x: ir.Value, layer: int) -> ir.Value:
        at, sizes = f"blk.{layer}", self.decoder.sizes
        q, k, v = (self.linear(x, f"{at}.attn_{part}") for part in "qkv")
        if self.decoder.qk_norm != "none":
            by_head = self.decoder.qk_norm == "heads"
            q = self.norm(q, f"{at}.attn_q_norm", sizes.n_heads if by_head else 0)
            k = self.norm(k, f"{at}.attn_k_norm", sizes.n_kv_heads if by_head else 0)
        windowed = int(sizes.windowed(layer))
        attended = self("Attention", q, k, v, name=f"{at}.attention", layer=layer, windowed=windowed)
        return self.linear(attended, f"{at}.attn_output")

    def feed_forward(self, x: ir.Value, layer: int) -> ir.Value:
        at = f"blk.{layer}"
        if self.decoder.experts is not None:
            return self("Experts", x, self.linear(x, f"{at}.ffn_gate_inp"), name=f"{at}.ffn_experts", layer=layer)
        gate, up = self.linear(x, f"{at}.ffn_gate"), self.linear(x, f"{at}.ffn_up")
        if self.decoder.sizes.activation == "gelu":
            active = self.made("Gelu", gate, name=f"{at}.ffn_gelu", approximate="tanh")
        else:
            active = self.made("Mul", gate, self.made("Sigmoid", gate, name=f"{at}.ffn_sigmoid"), name=f"{at}.ffn_silu")
        return self.linear(self.made("Mul", active, up, name=f"{at}.ffn_gated"), f"{at}.ffn_down")
