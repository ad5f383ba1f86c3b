"""llama: Llama 2 and 3, SmolLM2, Mistral 7B, Mixtral."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from edgeinfer.converters.architectures.base import base, each_layer
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.architectures.experts import with_experts
from edgeinfer.gguf import GGUFFile

__all__ = ["describe", "llama"]


def describe(file: GGUFFile) -> Decoder:
    return with_experts(llama(file, ("expert_count",)), file)


def llama(file: GGUFFile, knows: Container[str] = ()) -> Decoder:
    """What Granite begins with too. The rows of Q and K lie in pairs that are rotated together. Some models have
    biases; Llama 3 slows down the turns of its slowest pairs. A window that a file claims (Mistral 7B of 2023) is not
    kept, as llama.cpp does not. ``knows`` as `base` takes it."""
    plain = base(file, knows)
    sizes = plain.sizes
    q, kv = sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim
    biases = {
        "attn_q.bias": (q,),
        "attn_k.bias": (kv,),
        "attn_v.bias": (kv,),
        "attn_output.bias": (sizes.n_embd,),
        "ffn_gate.bias": (sizes.n_ff,),
        "ffn_up.bias": (sizes.n_ff,),
        "ffn_down.bias": (sizes.n_embd,),
    }
    optional = {**plain.optional, **each_layer(plain, biases), "rope_freqs.weight": (plain.rope.head_dim // 2,)}
    factors = "rope_freqs.weight" if "rope_freqs.weight" in file.tensors else None
    return replace(
        plain,
        optional=optional,
        ignored=frozenset(each_layer(plain, {"attn_rot_embd.weight": (), "attention.rotary_emb.inv_freq": ()})),
        rope_factors=factors,
        interleaved_rope=True,
    )
