"""qwen3: as the plain decoder, with a norm of each head of Q and K."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import base, each_layer
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.gguf import GGUFFile

__all__ = ["describe", "qwen3"]


def describe(file: GGUFFile) -> Decoder:
    return qwen3(base(file))


def qwen3(plain: Decoder) -> Decoder:
    """What the mixture of experts begins with too."""
    head = (plain.sizes.head_dim,)
    norms = each_layer(plain, {"attn_q_norm.weight": head, "attn_k_norm.weight": head})
    return replace(plain, required={**plain.required, **norms}, qk_norm="heads")
