"""qwen3: as the plain decoder, with a norm of each head of Q and K."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import base, each_layer
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.gguf import GGUFFile

__all__ = ["describe"]


def describe(file: GGUFFile) -> Decoder:
    plain = base(file)
    head = (plain.sizes.head_dim,)
    norms = each_layer(plain, {"attn_q_norm.weight": head, "attn_k_norm.weight": head})
    return replace(plain, required={**plain.required, **norms}, qk_norm=True)
