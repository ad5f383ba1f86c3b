"""nomic-bert: as bert, with rope instead of embedded positions, a gated feed-forward part, and no biases."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.base import only, refuse
from edgeinfer.converters.huggingface.architectures.bert import encoder_prefix
from edgeinfer.converters.huggingface.architectures.rope import scaling_of
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, Value, copy
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.converters.huggingface.pooling import pooling_type

__all__ = ["describe"]

_EMBEDDING = "embeddings.word_embeddings.weight"
_HEADS = ("cls.", "pooler.", "lm_head.")
_THETA = 1000.0


def describe(checkpoint: Checkpoint) -> Description:
    """Sizes have GPT-2's names in the checkpoints of the models' authors, and BERT's in those of transformers."""
    config = checkpoint.config
    _check(config)
    width = config.integer(config.first("hidden_size", "n_embd"))
    n_layers = config.integer(config.first("num_hidden_layers", "n_layer"), high=512)
    n_ff = config.integer(config.first("intermediate_size", "n_inner"), 4 * width)
    n_types = config.integer("type_vocab_size", 2)
    prefix = encoder_prefix(checkpoint, _EMBEDDING)
    n_vocab = config.integer("vocab_size")
    targets = [
        copy("token_embd.weight", prefix + _EMBEDDING, n_vocab, width),
        copy("token_types.weight", prefix + "embeddings.token_type_embeddings.weight", n_types, width),
        copy("token_embd_norm.weight", prefix + "emb_ln.weight", width),
        copy("token_embd_norm.bias", prefix + "emb_ln.bias", width),
    ]
    for layer in range(n_layers):
        targets += _layer_targets(f"blk.{layer}.", f"{prefix}encoder.layers.{layer}.", width, n_ff)
    unused = frozenset(
        name
        for name in checkpoint.tensors
        if name.removeprefix(prefix).startswith(_HEADS) or name.endswith(("position_ids", "inv_freq"))
    )
    keys = _keys(checkpoint, config, width, n_layers, n_ff)
    return Description("nomic-bert", keys, tuple(targets), n_vocab, unused=unused)


def _check(config: Fields) -> None:
    if config.integer("moe_every_n_layers", 0, low=0):
        raise refuse(config, "moe_every_n_layers is set (a mixture of experts)")
    only(config, "activation_function", "swiglu")
    only(config, "hidden_act", "silu")
    only(config, "rotary_emb_fraction", 1, 1.0)
    for key in ("prenorm", "rotary_emb_interleaved", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "causal"):
        only(config, key, False)
    only(config, "rotary_emb_scale_base")


def _keys(checkpoint: Checkpoint, config: Fields, width: int, n_layers: int, n_ff: int) -> dict[str, Value]:
    n_heads = config.integer(config.first("num_attention_heads", "n_head"))
    if width % n_heads:
        raise refuse(config, f"{n_heads} heads do not divide a width of {width}")
    scaling = scaling_of(config.with_defaults({"rope_theta": config.number("rotary_emb_base", _THETA)}))
    if scaling.kind not in ("default", "dynamic") or scaling.fields.number("partial_rotary_factor", 1.0) != 1:
        raise refuse(config, f"rope_type is {scaling.kind!r}, or a part of each head is rotated")
    return {
        "block_count": n_layers,
        "context_length": config.integer(config.first("max_trained_positions", "max_position_embeddings"), 2048),
        "embedding_length": width,
        "feed_forward_length": n_ff,
        "attention.head_count": n_heads,
        "attention.head_count_kv": n_heads,
        "attention.layer_norm_epsilon": config.number(config.first("layer_norm_eps", "layer_norm_epsilon"), 1e-12),
        "attention.causal": False,
        "pooling_type": pooling_type(checkpoint),
        "rope.freq_base": scaling.theta,
    }


def _layer_targets(blk: str, hf: str, width: int, n_ff: int) -> list[Target]:
    found = [
        copy(blk + "attn_qkv.weight", hf + "attn.Wqkv.weight", 3 * width, width),
        copy(blk + "attn_output.weight", hf + "attn.out_proj.weight", width, width),
        copy(blk + "ffn_up.weight", hf + "mlp.fc11.weight", n_ff, width),
        copy(blk + "ffn_gate.weight", hf + "mlp.fc12.weight", n_ff, width),
        copy(blk + "ffn_down.weight", hf + "mlp.fc2.weight", width, n_ff),
    ]
    for ours, theirs in (("attn_output_norm", "norm1"), ("layer_output_norm", "norm2")):
        found += [copy(f"{blk}{ours}.{end}", f"{hf}{theirs}.{end}", width) for end in ("weight", "bias")]
    return found
