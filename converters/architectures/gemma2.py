"""gemma2: Gemma 2. As gemma3, with one rope and capped scores and logits instead of norms of Q and K."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import base, each_layer, refuse
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.gguf import GGUFFile

__all__ = ["describe"]

_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_DEFAULTS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_WINDOW = 4096
_PATTERN = 2
_LARGEST = 46
"""Layers of the 27B, whose attention is scaled by its width instead of its heads' dimension."""


def describe(file: GGUFFile) -> Decoder:
    """Every other layer looks back over a window only; norms before and after; embeddings are scaled by the root of
    their width. Norm weights have their 1 added in the file already. What a file leaves out is as llama.cpp has it."""
    plain, meta = base(file, _CAPS), file.metadata
    sizes = plain.sizes
    window = meta.integer("gemma2.attention.sliding_window", _WINDOW)
    pattern = meta.integer("gemma2.attention.sliding_window_pattern", _PATTERN)
    caps = {key: meta.number(f"gemma2.{key}", default) for key, default in _DEFAULTS.items()}
    if not all(cap > 0 for cap in caps.values()):
        raise refuse(file, f"its caps are {', '.join(f'{cap:g}' for cap in caps.values())}")
    head_dim = sizes.n_embd // sizes.n_heads if sizes.n_layers == _LARGEST else sizes.head_dim
    width = (sizes.n_embd,)
    norms = each_layer(plain, {"post_attention_norm.weight": width, "post_ffw_norm.weight": width})
    return replace(
        plain,
        sizes=replace(
            sizes,
            activation="gelu",
            embedding_scale=sizes.n_embd**0.5,
            attention_scale=head_dim**-0.5,
            sliding_window=window or None,
            window_pattern=pattern or None if window else None,
        ),
        required={**plain.required, **norms},
        post_norms=True,
        attention_cap=caps["attn_logit_softcapping"],
        logit_cap=caps["final_logit_softcapping"],
    )
