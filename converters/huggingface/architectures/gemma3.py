"""gemma3: Gemma 3, its text part. As gemma2 without caps, with a norm of each head of Q and K and a rope of their own
in the layers that look back over a window."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.base import finished, only, refuse
from edgeinfer.converters.huggingface.architectures.gemma2 import attention_scale, gemma, scaled, window_period
from edgeinfer.converters.huggingface.architectures.rope import scaling_of
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy
from edgeinfer.converters.huggingface.documents import Fields

__all__ = ["describe"]

_DEFAULTS: dict[str, object] = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "rope_theta": 1000000.0,
}
_PERIOD = 6
_LOCAL_THETA = 10000.0
_LARGEST = 62
"""Layers of the 27B, in which llama.cpp divides by the width instead of a head's dimension."""


def describe(checkpoint: Checkpoint) -> Description:
    whole = checkpoint.config
    text = whole.fields("text_config") if "text_config" in whole else None
    made = gemma(checkpoint, _DEFAULTS, text)
    config, sizes = made.config, made.sizes
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        only(config, key)
    made.keys["attention.sliding_window"] = config.integer("sliding_window")
    period = window_period(config, sizes.n_layers, _PERIOD)
    if period == 1:
        raise refuse(config, "no layer has a window")
    if period != _PERIOD:
        made.keys["attention.sliding_window_pattern"] = period
    made.keys["rope.freq_base_swa"] = _local_theta(config)
    if abs(float(str(made.keys.get("rope.scaling.attn_factor", 1.0))) - 1) > 1e-6:
        raise refuse(config, "yarn has an attention factor of its own (it would go to the layers with a window too)")

    def norms(_layer: int, blk: str, hf: str) -> dict[str, Target]:
        found = [
            copy(f"{blk}attn_{which}_norm.weight", f"{hf}self_attn.{which}_norm.weight", sizes.head_dim, shift=1.0)
            for which in "qk"
        ]
        return {target.name: target for target in found}

    made.each_layer(norms)
    scaled(made, "attn_q_norm.weight", attention_scale(made, _LARGEST))
    return finished(made, "gemma3")


def _local_theta(config: Fields) -> float:
    """Of the layers with a window, whose positions are never stretched."""
    if "sliding_attention" in config.fields("rope_parameters"):
        local = scaling_of(config, "sliding_attention")
        if local.kind != "default":
            raise refuse(config, f"rope_type of sliding_attention is {local.kind!r}")
        if "rope_theta" in config.fields("rope_parameters").fields("sliding_attention"):
            return local.theta
    return config.number("rope_local_base_freq", _LOCAL_THETA)
