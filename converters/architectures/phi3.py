"""phi3: Phi 3, 3.5 and 4. As the plain decoder; a file has Q, K and V in one matrix, gate and up in another, and for
long contexts two sets of factors for its rope."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import base, each_layer, without
from edgeinfer.converters.architectures.decoder import Decoder, LongRope
from edgeinfer.converters.sources import View
from edgeinfer.gguf import GGUFFile

__all__ = ["LONG", "SHORT", "describe"]

SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"


def describe(file: GGUFFile) -> Decoder:
    """A window that a file claims is not kept, as llama.cpp does not."""
    plain = base(file, ("rope.dimension_count",))
    sizes = plain.sizes
    q, kv = sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim
    shapes = {"attn_qkv.weight": (q + 2 * kv, sizes.n_embd), "ffn_up.weight": (2 * sizes.n_ff, sizes.n_embd)}
    views: dict[str, View] = {}
    for layer in range(sizes.n_layers):
        at = f"blk.{layer}"
        views |= {
            f"{at}.attn_q.weight": View(f"{at}.attn_qkv.weight", 0, q),
            f"{at}.attn_k.weight": View(f"{at}.attn_qkv.weight", q, kv),
            f"{at}.attn_v.weight": View(f"{at}.attn_qkv.weight", q + kv, kv),
            f"{at}.ffn_gate.weight": View(f"{at}.ffn_up.weight", 0, sizes.n_ff),
            f"{at}.ffn_up.weight": View(f"{at}.ffn_up.weight", sizes.n_ff, sizes.n_ff),
        }
    required = without(plain.required, "attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_gate.weight")
    made = replace(plain, required={**required, **each_layer(plain, shapes)}, views=views)
    return _with_long_rope(made, file) if LONG in file.tensors or SHORT in file.tensors else made


def _with_long_rope(plain: Decoder, file: GGUFFile) -> Decoder:
    """Both sets are needed where there is one."""
    meta, n_pairs = file.metadata, plain.rope.head_dim // 2
    rope = replace(plain.rope, stretch=meta.number("phi3.rope.scaling.attn_factor", 1.0))
    n_ctx_short = meta.integer("phi3.rope.scaling.original_context_length", plain.sizes.n_ctx_train)
    return replace(
        plain,
        required={**plain.required, SHORT: (n_pairs,), LONG: (n_pairs,)},
        rope=rope,
        rope_factors=SHORT,
        rope_long=LongRope(n_ctx_short, LONG, rope),
    )
