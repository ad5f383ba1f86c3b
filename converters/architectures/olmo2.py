"""olmo2: OLMo 2. As the plain decoder, with norms after attention and feed-forward instead of before, and one over all
of Q and one over all of K."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import base, each_layer, refuse, without
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.gguf import GGUFFile

__all__ = ["describe"]


def describe(file: GGUFFile) -> Decoder:
    plain = base(file)
    sizes = plain.sizes
    if file.metadata.integer("olmo2.attention.sliding_window", 0):
        raise refuse(file, "some layers have a window (as OLMo 3 does)")
    shapes = {
        "post_attention_norm.weight": (sizes.n_embd,),
        "post_ffw_norm.weight": (sizes.n_embd,),
        "attn_q_norm.weight": (sizes.n_heads * sizes.head_dim,),
        "attn_k_norm.weight": (sizes.n_kv_heads * sizes.head_dim,),
    }
    required = without(plain.required, "attn_norm.weight", "ffn_norm.weight")
    return replace(
        plain, required={**required, **each_layer(plain, shapes)}, qk_norm="whole", pre_norms=False, post_norms=True
    )
