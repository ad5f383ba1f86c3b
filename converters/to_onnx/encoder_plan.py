"""An encoder as a graph of abstract operators, of which Embed and Linear are those of `plan`.

AddRows(x)                 plus rows of ``tensor``: of each position, or the first to all where ``first``
LayerNorm(x)               over the last axis, times ``tensor``.weight plus ``tensor``.bias
AttendAll(q, k, v)         every token to every other; rope where the model has it
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Bidirectional, Decoder
from edgeinfer.converters.to_onnx.graph import CONTRIB, PLAN, Nodes, typed
from edgeinfer.onnx.package import HIDDEN_STATES

__all__ = ["encoder_plan"]

_OPSET = 21
_IR_VERSION = 10


def encoder_plan(encoder: Decoder, kind: Bidirectional, tensors: Container[str]) -> ir.Model:
    """``tensors``: those that the source has, of which the optional ones decide about biases. One text of any length
    goes in, (1, n_tokens); the states of its tokens come out."""
    add, sizes = _Planner(kind, tensors), encoder.sizes
    input_ids = typed("input_ids", ir.DataType.INT64, [1, "n_tokens"])
    x = add("Embed", input_ids, name="token_embd", tensor="token_embd.weight", scale=1.0)
    for name, first in (("token_types", 1), ("position_embd", 0)):
        if f"{name}.weight" in tensors:
            x = add("AddRows", x, name=f"{name}.added", tensor=f"{name}.weight", first=first)
    x = add("LayerNorm", x, name="token_embd_norm", tensor="token_embd_norm")
    for layer in range(sizes.n_layers):
        x = add.layer(x, f"blk.{layer}")
    x.name, x.type = HIDDEN_STATES, ir.TensorType(ir.DataType.FLOAT)
    x.shape = ir.Shape([1, "n_tokens", sizes.n_embd])
    graph = ir.Graph(
        [input_ids], [x], nodes=add.made.nodes, opset_imports={"": _OPSET, CONTRIB: 1, PLAN: 1}, name="encoder"
    )
    return ir.Model(graph, ir_version=_IR_VERSION, producer_name="edgeinfer")


class _Planner:
    def __init__(self, kind: Bidirectional, tensors: Container[str]) -> None:
        self.kind = kind
        self.tensors = tensors
        self.made = Nodes()

    def __call__(self, op_type: str, *inputs: ir.Value, name: str, **attributes: Any) -> ir.Value:
        return self.made(op_type, *inputs, name=name, domain=PLAN, **attributes)

    def linear(self, x: ir.Value, name: str) -> ir.Value:
        bias = f"{name}.bias" if f"{name}.bias" in self.tensors else ""
        return self("Linear", x, name=name, tensor=f"{name}.weight", bias=bias)

    def layer(self, x: ir.Value, at: str) -> ir.Value:
        attended = self.linear(self.attention(x, at), f"{at}.attn_output")
        x = self.made("Add", x, attended, name=f"{at}.attn_residual")
        x = self("LayerNorm", x, name=f"{at}.attn_output_norm", tensor=f"{at}.attn_output_norm")
        x = self.made("Add", x, self.feed_forward(x, at), name=f"{at}.ffn_residual")
        return self("LayerNorm", x, name=f"{at}.layer_output_norm", tensor=f"{at}.layer_output_norm")

    def attention(self, x: ir.Value, at: str) -> ir.Value:
        names = [f"{at}.attn_{part}" for part in "qkv"]
        if self.kind.fused:
            joined = self.linear(x, f"{at}.attn_qkv")
            self.made("Split", joined, name=f"{at}.attn_qkv.split", outputs=names, axis=-1, num_outputs=3)
            parts = list(self.made.last().outputs)
        else:
            parts = [self.linear(x, name) for name in names]
        return self("AttendAll", *parts, name=f"{at}.attention")

    def feed_forward(self, x: ir.Value, at: str) -> ir.Value:
        up = self.linear(x, f"{at}.ffn_up")
        if self.kind.activation == "silu":
            gate = self.linear(x, f"{at}.ffn_gate")
            active = self.made("Mul", gate, self.made("Sigmoid", gate, name=f"{at}.ffn_sigmoid"), name=f"{at}.ffn_silu")
            return self.linear(self.made("Mul", active, up, name=f"{at}.ffn_gated"), f"{at}.ffn_down")
        exact = {"gelu": "none", "gelu_tanh": "tanh"}[self.kind.activation]
        return self.linear(self.made("Gelu", up, name=f"{at}.ffn_gelu", approximate=exact), f"{at}.ffn_down")
