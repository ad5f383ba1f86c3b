"""Attention as `GroupQueryAttention`, which rotates, keeps the cache and attends. Adds the graph's inputs and outputs
for it, named as ONNX Runtime GenAI expects."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.architectures.rope import Rope
from edgeinfer.converters.to_onnx.graph import CONTRIB, Nodes, attribute, constant, rewrite, typed
from edgeinfer.converters.to_onnx.passes.heads import gathered, spread
from edgeinfer.converters.to_onnx.weights import Weights

__all__ = ["AttentionGQA"]


class AttentionGQA(ir.passes.InPlacePass):
    """``attention_mask`` (1, T) of ones says how long the sequence is with the new tokens: the operator needs nothing
    else of it. Where a long context has another rope, its tables are in the graph and used by no node: who opens it for
    such a context puts them in the others' place."""

    def __init__(self, decoder: Decoder, weights: Weights) -> None:
        self._decoder = decoder
        self._space = decoder.space
        self._weights = weights
        self._mask = typed("attention_mask", ir.DataType.INT64, [1, "n_total"])
        self._lengths: tuple[ir.Value, ir.Value] | None = None
        self._tables: dict[str, tuple[ir.Value, ir.Value]] = {}
        self._caches: list[tuple[list[ir.Value], list[ir.Value]]] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = rewrite(model, "Attention", self._attention)
        model.graph.inputs.append(self._mask)
        for past, present in self._caches:
            model.graph.inputs.extend(past)
            model.graph.outputs.extend(present)
        if self._decoder.rope_long is not None:
            for table in self._table("rope_long", self._decoder.rope_long.rope):
                model.graph.register_initializer(table)
        return ir.passes.PassResult(model, found)

    def _attention(self, node: ir.Node, add: Nodes) -> ir.Value:
        layer, sizes, name = attribute(node, "layer"), self._decoder.sizes, node.name or ""
        windowed = bool(attribute(node, "windowed"))
        past, present = self._cache(layer)
        self._lengths = self._lengths or _lengths(self._mask, add)
        rope = self._decoder.rope_local if windowed and self._decoder.rope_local else self._decoder.rope
        cos, sin = self._table("rope_local" if rope is self._decoder.rope_local else "rope", rope)
        window = {"local_window_size": sizes.sliding_window} if windowed else {}
        cap = {"softcap": self._decoder.attention_cap} if self._decoder.attention_cap else {}
        counts = (sizes.n_heads, sizes.n_kv_heads, sizes.n_kv_heads)
        qkv = [
            spread(value, self._space, n, f"{name}.{part}", add, rotated=part != "v")
            for value, n, part in zip(node.inputs, counts, "qkv", strict=True)
        ]
        attended = add(
            "GroupQueryAttention",
            *qkv,
            *past,
            *self._lengths,
            cos,
            sin,
            name=name,
            domain=CONTRIB,
            outputs=[name, *(str(value.name) for value in present)],
            num_heads=sizes.n_heads,
            kv_num_heads=sizes.n_kv_heads,
            scale=sizes.attention_scale,
            do_rotary=1,
            rotary_interleaved=0,
            **window,
            **cap,
        )
        made = add.last().outputs[1:]
        for value, like in zip(made, present, strict=True):
            value.shape, value.type = like.shape, like.type
        self._caches.append((past, list(made)))
        return gathered(attended, self._space, sizes.n_heads, name, add)

    def _cache(self, layer: int) -> tuple[list[ir.Value], list[ir.Value]]:
        sizes, kind = self._decoder.sizes, ir.DataType.FLOAT

        def both(prefix: str, length: str) -> list[ir.Value]:
            shape: list[int | str] = [1, sizes.n_kv_heads, length, self._space.room]
            return [typed(f"{prefix}.{layer}.{part}", kind, shape) for part in ("key", "value")]

        return both("past_key_values", "n_past"), both("present", "n_present")

    def _table(self, name: str, rope: Rope) -> tuple[ir.Value, ir.Value]:
        if name not in self._tables:
            shape = (self._decoder.sizes.n_ctx_train, self._space.half_room)
            cos, sin = (
                self._weights.table(f"{name}.{part}", (pair[i] for pair in rope.tables(*shape)), shape)
                for i, part in enumerate(("cos", "sin"))
            )
            self._tables[name] = cos, sin
        return self._tables[name]


def _lengths(mask: ir.Value, add: Nodes) -> tuple[ir.Value, ir.Value]:
    """The last position of the sequence, int32 (1,), and its length, an int32 scalar."""
    ones = add("ReduceSum", mask, constant("axis.1", np.array([1])), name="n_ones", keepdims=0)
    last = add("Sub", ones, constant("one", np.array(1)), name="last_position")
    seqlens = add("Cast", last, name="seqlens_k", to=ir.DataType.INT32)
    shape = add("Shape", mask, name="mask_shape")
    length = add("Gather", shape, constant("index.1", np.array(1)), name="mask_length", axis=0)
    return seqlens, add("Cast", length, name="total_sequence_length", to=ir.DataType.INT32)
