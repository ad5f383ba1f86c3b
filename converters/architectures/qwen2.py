"""qwen2: Qwen 2 and 2.5. As the plain decoder, with biases of Q, K and V."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import base, each_layer
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.gguf import GGUFFile

__all__ = ["describe"]


def describe(file: GGUFFile) -> Decoder:
    plain = base(file)
    q, kv = (n * plain.sizes.head_dim for n in (plain.sizes.n_heads, plain.sizes.n_kv_heads))
    biases = each_layer(plain, {"attn_q.bias": (q,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)})
    return replace(plain, required={**plain.required, **biases})
