"""Attention in the operators that every runtime has, for graphs of fixed shapes. The host keeps the cache and makes
rotations and masks; the graph answers keys and values of its own tokens alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.to_onnx.graph import Nodes, attribute, capped, constant, rewrite, typed
from edgeinfer.converters.to_onnx.passes.heads import gathered, spread

__all__ = ["AttentionPrimitive"]


class AttentionPrimitive(ir.passes.InPlacePass):
    """Of ``n_tokens`` after at most ``n_ctx`` others.

    Heads that share keys are rows of one product, so keys and values are never repeated; and scores of the past and of
    the new tokens are joined, not their keys, so that the past is never copied.
    """

    def __init__(self, decoder: Decoder, n_tokens: int, n_ctx: int) -> None:
        self._sizes = decoder.sizes
        self._space = decoder.space
        self._cap = decoder.attention_cap
        self._local = decoder.rope_local is not None
        self._n_tokens, self._n_ctx = n_tokens, n_ctx
        self._group = decoder.sizes.n_heads // decoder.sizes.n_kv_heads
        self._inputs: dict[str, ir.Value] = {}
        self._masks: dict[str, ir.Value] = {}
        self._new: list[ir.Value] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = rewrite(model, "Attention", self._attention)
        past = {name: value for name, value in self._inputs.items() if name.startswith("past")}
        model.graph.inputs.extend(value for name, value in self._inputs.items() if name not in past)
        model.graph.inputs.extend(past.values())
        model.graph.outputs.extend(self._new)
        return ir.passes.PassResult(model, found)

    def _attention(self, node: ir.Node, add: Nodes) -> ir.Value:
        sizes, name, layer = self._sizes, node.name or "", attribute(node, "layer")
        windowed = bool(attribute(node, "windowed"))
        rope = "rope_local" if windowed and self._local else "rope"
        mask = self._mask("mask_window" if windowed else "mask", add)
        counts = (sizes.n_heads, sizes.n_kv_heads, sizes.n_kv_heads)
        q, k, v = (
            spread(value, self._space, n, f"{name}.{part}_spread", add, rotated=part != "v")
            for value, n, part in zip(node.inputs, counts, "qkv", strict=True)
        )
        q = self._rotated(self._heads(q, sizes.n_heads, f"{name}.q_heads", add), rope, f"{name}.q", add)
        k = self._rotated(self._heads(k, sizes.n_kv_heads, f"{name}.k_heads", add), rope, f"present.{layer}.key", add)
        v = self._heads(v, sizes.n_kv_heads, f"present.{layer}.value", add)
        self._answer(k, v)
        q = add("Mul", q, constant("scale", np.float32(sizes.attention_scale)), name=f"{name}.scaled")
        q = add.reshape(q, [1, sizes.n_kv_heads, self._group * self._n_tokens, self._space.room], f"{name}.grouped")
        shape = [1, sizes.n_kv_heads, self._n_ctx, self._space.room]
        past = [self._input(f"past_key_values.{layer}.{part}", shape) for part in ("key", "value")]
        seen = self._seen(q, (past[0], k), mask, name, add)
        attended = self._sum(seen, (past[1], v), name, add)
        attended = add.reshape(attended, [1, sizes.n_heads, self._n_tokens, self._space.room], f"{name}.heads")
        attended = add("Transpose", attended, name=f"{name}.tokens", perm=[0, 2, 1, 3])
        attended = add.reshape(attended, [1, self._n_tokens, sizes.n_heads * self._space.room], f"{name}.joined")
        return gathered(attended, self._space, sizes.n_heads, name, add)

    def _answer(self, *values: ir.Value) -> None:
        sizes = self._sizes
        for value in values:
            value.type = ir.TensorType(ir.DataType.FLOAT)
            value.shape = ir.Shape([1, sizes.n_kv_heads, self._n_tokens, self._space.room])
            self._new.append(value)

    def _input(self, name: str, shape: Sequence[int]) -> ir.Value:
        return self._inputs.setdefault(name, typed(name, ir.DataType.FLOAT, shape))

    def _heads(self, x: ir.Value | None, n_heads: int, name: str, add: Nodes) -> ir.Value:
        """(1, tokens, width) as (1, heads, tokens, head_dim)."""
        if x is None:
            raise ValueError(f"{name} has no input")
        x = add.reshape(x, [1, self._n_tokens, n_heads, self._space.room], f"{name}.split")
        return add("Transpose", x, name=name, perm=[0, 2, 1, 3])

    def _rotated(self, x: ir.Value, rope: str, name: str, add: Nodes) -> ir.Value:
        half = self._space.half_room
        shape, rest = [1, 1, self._n_tokens, half], self._space.room - 2 * half
        cos, sin = (self._input(f"{rope}.{part}", shape) for part in ("cos", "sin"))
        lengths = [half, half, *([rest] if rest else [])]
        names = [f"{name}.{which}" for which in ("first", "second", "rest")[: len(lengths)]]
        sizes = constant("lengths." + ".".join(map(str, lengths)), np.array(lengths))
        add("Split", x, sizes, name=f"{name}.halves", outputs=names, axis=-1)
        first, second, *still = add.last().outputs
        turned = [
            add("Sub", *_products(add, f"{name}.x", (first, cos), (second, sin)), name=f"{name}.turned_x"),
            add("Add", *_products(add, f"{name}.y", (second, cos), (first, sin)), name=f"{name}.turned_y"),
        ]
        return add("Concat", *turned, *still, name=name, axis=-1)

    def _mask(self, name: str, add: Nodes) -> ir.Value:
        """(1, 1, tokens, columns) once for each head of a group, below each other; made once a graph."""
        if name not in self._masks:
            mask = self._input(name, [1, 1, self._n_tokens, self._n_ctx + self._n_tokens])
            repeated = add("Concat", *[mask] * self._group, name=f"{name}.grouped", axis=2) if self._group > 1 else mask
            self._masks[name] = repeated
        return self._masks[name]

    def _seen(self, q: ir.Value, keys: Sequence[ir.Value], mask: ir.Value, name: str, add: Nodes) -> ir.Value:
        """How much of each token, past and new, each sees."""
        scores = []
        for which, key in zip(("past", "new"), keys, strict=True):
            turned = add("Transpose", key, name=f"{name}.{which}_keys", perm=[0, 1, 3, 2])
            scores.append(add("MatMul", q, turned, name=f"{name}.{which}_scores"))
        joined = add("Concat", *scores, name=f"{name}.scores", axis=-1)
        if self._cap:
            joined = capped(joined, self._cap, f"{name}.capped", add)
        return add("Softmax", add("Add", joined, mask, name=f"{name}.masked"), name=f"{name}.seen", axis=-1)

    def _sum(self, seen: ir.Value, values: Sequence[ir.Value], name: str, add: Nodes) -> ir.Value:
        lengths = constant("seen.lengths", np.array([self._n_ctx, self._n_tokens]))
        names = [f"{name}.seen_past", f"{name}.seen_new"]
        add("Split", seen, lengths, name=f"{name}.parts", outputs=names, axis=-1)
        parts = add.last().outputs
        sums = [
            add("MatMul", part, value, name=f"{name}.{which}_sum")
            for which, part, value in zip(("past", "new"), parts, values, strict=True)
        ]
        return add("Add", *sums, name=f"{name}.sum")


def _products(add: Nodes, name: str, *pairs: tuple[ir.Value, ir.Value]) -> list[ir.Value]:
    return [add("Mul", *pair, name=f"{name}{i}") for i, pair in enumerate(pairs)]
