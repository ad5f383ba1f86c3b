"""bert: BERT as an encoder of sentences. Norms come after; positions are embedded; nothing is masked."""

from __future__ import annotations

import numpy as np

from edgeinfer.converters.huggingface.architectures.base import only, refuse
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Source, Target, Value, copy
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.converters.huggingface.pooling import pooling_type

__all__ = ["bert", "describe", "encoder_prefix"]

_EMBEDDING = "embeddings.word_embeddings.weight"
_HEADS = ("cls.", "pooler.", "lm_head.")
_LAYER = (
    ("attn_q", "attention.self.query"),
    ("attn_k", "attention.self.key"),
    ("attn_v", "attention.self.value"),
    ("attn_output", "attention.output.dense"),
)
_NORMS = (("attn_output_norm", "attention.output.LayerNorm"), ("layer_output_norm", "output.LayerNorm"))


def describe(checkpoint: Checkpoint) -> Description:
    return bert(checkpoint, 0)


def bert(checkpoint: Checkpoint, first_position: int) -> Description:
    """``first_position``: the row of the position embeddings that the first token gets."""
    config = checkpoint.config
    only(config, "hidden_act", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast")
    only(config, "position_embedding_type", "absolute")
    only(config, "is_decoder", False)
    width, n_layers = config.integer("hidden_size"), config.integer("num_hidden_layers", high=512)
    n_positions = config.integer("max_position_embeddings")
    if n_positions <= first_position:
        raise refuse(config, f"max_position_embeddings is {n_positions}")
    prefix = encoder_prefix(checkpoint, _EMBEDDING)
    keys = _keys(checkpoint, config, n_positions - first_position)
    targets = _embeddings(config, prefix, width, first_position)
    for layer in range(n_layers):
        targets += _layer_targets(f"blk.{layer}.", f"{prefix}encoder.layer.{layer}.", width, config)
    unused = frozenset(
        name
        for name in checkpoint.tensors
        if name.removeprefix(prefix).startswith(_HEADS) or name.endswith(("position_ids", "token_type_ids"))
    )
    return Description("bert", keys, tuple(targets), config.integer("vocab_size"), unused=unused)


def encoder_prefix(checkpoint: Checkpoint, embedding: str) -> str:
    """What stands before all names: nothing, or the class's short name."""
    found = [name for name in checkpoint.tensors if name == embedding or name.endswith("." + embedding)]
    return found[0][: -len(embedding)] if len(found) == 1 else ""


def _keys(checkpoint: Checkpoint, config: Fields, n_ctx: int) -> dict[str, Value]:
    width, n_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if width % n_heads:
        raise config.wrong("num_attention_heads", f"is {n_heads}, which does not divide hidden_size {width}")
    exact = config.text("hidden_act", "gelu") == "gelu"
    return {
        **({} if exact else {"hidden_activation": "gelu_tanh"}),
        "block_count": config.integer("num_hidden_layers", high=512),
        "context_length": n_ctx,
        "embedding_length": width,
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": n_heads,
        "attention.head_count_kv": n_heads,
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", 1e-12),
        "attention.causal": False,
        "pooling_type": pooling_type(checkpoint),
    }


def _embeddings(config: Fields, prefix: str, width: int, first_position: int) -> list[Target]:
    n_positions, n_types = config.integer("max_position_embeddings"), config.integer("type_vocab_size", 2)
    rows = np.arange(first_position, n_positions, dtype=np.int64)
    positions = Source(prefix + "embeddings.position_embeddings.weight", (n_positions, width), rows)
    return [
        copy("token_embd.weight", prefix + _EMBEDDING, config.integer("vocab_size"), width),
        copy("token_types.weight", prefix + "embeddings.token_type_embeddings.weight", n_types, width),
        Target("position_embd.weight", (len(rows), width), (positions,)),
        copy("token_embd_norm.weight", prefix + "embeddings.LayerNorm.weight", width),
        copy("token_embd_norm.bias", prefix + "embeddings.LayerNorm.bias", width),
    ]


def _layer_targets(blk: str, hf: str, width: int, config: Fields) -> list[Target]:
    n_ff = config.integer("intermediate_size")
    shapes = {ours: (width, width) for ours, _ in _LAYER} | {"ffn_up": (n_ff, width), "ffn_down": (width, n_ff)}
    found = []
    for ours, theirs in (*_LAYER, ("ffn_up", "intermediate.dense"), ("ffn_down", "output.dense")):
        found.append(copy(f"{blk}{ours}.weight", f"{hf}{theirs}.weight", *shapes[ours]))
        found.append(copy(f"{blk}{ours}.bias", f"{hf}{theirs}.bias", shapes[ours][0]))
    for ours, theirs in _NORMS:
        found += [copy(f"{blk}{ours}.{end}", f"{hf}{theirs}.{end}", width) for end in ("weight", "bias")]
    return found
