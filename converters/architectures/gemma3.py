"""gemma3: Gemma 3, its text part."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import base, each_layer
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.architectures.rope import Rope
from edgeinfer.gguf import GGUFFile

__all__ = ["describe"]

_PATTERN = 6
_LOCAL_THETA = 10000.0
_LARGEST = 62
"""Layers of the 27B, whose attention is scaled by its width instead of its heads' dimension."""


def describe(file: GGUFFile) -> Decoder:
    """Five of six layers look back over a window only, with a rope of their own; norms before and after; embeddings are
    scaled by the root of their width. Norm weights have their 1 added in the file already."""
    plain, meta = base(file), file.metadata
    sizes = plain.sizes
    window = meta.integer("gemma3.attention.sliding_window", 0) or None
    pattern = meta.integer("gemma3.attention.sliding_window_pattern", _PATTERN) or None
    theta = meta.number("gemma3.rope.freq_base_swa", _LOCAL_THETA)
    by_width = sizes.n_layers == _LARGEST
    sizes = replace(
        sizes,
        activation="gelu",
        embedding_scale=sizes.n_embd**0.5,
        attention_scale=(sizes.n_embd // sizes.n_heads) ** -0.5 if by_width else sizes.head_dim**-0.5,
        sliding_window=window,
        window_pattern=pattern if window else None,
        rope_theta_local=theta if window else None,
    )
    width, head = (sizes.n_embd,), (sizes.head_dim,)
    norms = {
        "attn_q_norm.weight": head,
        "attn_k_norm.weight": head,
        "post_attention_norm.weight": width,
        "post_ffw_norm.weight": width,
    }
    return replace(
        plain,
        sizes=sizes,
        required={**plain.required, **each_layer(plain, norms)},
        rope_local=Rope(theta, sizes.head_dim) if window else None,
        qk_norm="heads",
        post_norms=True,
    )
