"""gemma2: the plain decoder with norms after attention and feed-forward too, all of which add 1 to their weights;
capped logits; every second layer looks back over a window only."""

from __future__ import annotations

import dataclasses

from edgeinfer.converters.huggingface.architectures.base import Decoder, decoder, finished, only, refuse
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy
from edgeinfer.converters.huggingface.documents import Fields

__all__ = ["attention_scale", "describe", "gemma", "scaled", "window_period"]

_DEFAULTS: dict[str, object] = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256000,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_NO_CAP = 1e4
"""llama.cpp's graph always caps; logits of some tens are the same to seven digits under this."""

_LARGEST = 46
"""Layers of the 27B, in which llama.cpp divides by the width instead of a head's dimension."""


def describe(checkpoint: Checkpoint) -> Description:
    made = gemma(checkpoint, _DEFAULTS)
    config = made.config
    given = checkpoint.config
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        null = given.is_null(key)
        made.keys[key] = _NO_CAP if null else config.number(key)
    window, period = config.integer("sliding_window"), window_period(config, made.sizes.n_layers, 2)
    if period == 1:  # no layer has one, which llama.cpp stops the process for; one that hides nothing is the same
        window, period = config.integer("max_position_embeddings"), 2
    made.keys["attention.sliding_window"] = window
    if period != 2:
        made.keys["attention.sliding_window_pattern"] = period
    scaled(made, "attn_q.weight", attention_scale(made, _LARGEST))
    return finished(made, "gemma2")


def gemma(checkpoint: Checkpoint, defaults: dict[str, object], text: Fields | None = None) -> Decoder:
    """What both Gemmas have."""
    made = decoder(checkpoint, defaults, text)
    config, sizes = made.config, made.sizes
    only(config, "hidden_activation", "gelu_pytorch_tanh")
    only(config, "attention_bias", False)
    only(config, "use_bidirectional_attention", False)
    if "output.weight" in made.targets:
        raise refuse(config, "tie_word_embeddings is false")

    def norms(_layer: int, blk: str, hf: str) -> dict[str, Target]:
        names = (
            ("attn_norm", "input_layernorm"),
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        )
        found = [copy(f"{blk}{ours}.weight", f"{hf}{theirs}.weight", sizes.n_embd, shift=1.0) for ours, theirs in names]
        return {target.name: target for target in found}

    made.each_layer(norms)
    made.targets["output_norm.weight"] = copy(
        "output_norm.weight", made.prefix + "norm.weight", sizes.n_embd, shift=1.0
    )
    return made


def attention_scale(made: Decoder, n_largest: int) -> float:
    """What Q must be multiplied by so that the scale that llama.cpp derives from sizes becomes the model's own."""
    sizes = made.sizes
    theirs = sizes.n_embd // sizes.n_heads if sizes.n_layers == n_largest else sizes.head_dim
    return float((theirs / made.config.number("query_pre_attn_scalar")) ** 0.5)


def scaled(made: Decoder, name: str, scale: float) -> None:
    """Multiply a tensor of every layer."""
    if scale == 1:
        return
    for layer in range(made.sizes.n_layers):
        target = made.targets[f"blk.{layer}.{name}"]
        sources = tuple(dataclasses.replace(source, scale=scale) for source in target.sources)
        made.targets[target.name] = dataclasses.replace(target, sources=sources)


def window_period(config: Fields, n_layers: int, default: int) -> int:
    """Every how manieth layer sees everything. Raises `UnsupportedModel` where that is no fixed number."""
    types = config.array("layer_types")
    if not types:
        return config.integer(config.first("_sliding_window_pattern", "sliding_window_pattern"), default)
    full = [at for at, kind in enumerate(types) if kind == "full_attention"]
    period = full[0] + 1 if full else n_layers + 1
    wanted = ["full_attention" if (at + 1) % period == 0 else "sliding_attention" for at in range(n_layers)]
    if types != wanted:
        raise refuse(config, "layer_types has another pattern than a window in all layers but every n-th")
    return period
