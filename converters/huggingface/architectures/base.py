"""What all decoders here have in common: sizes, rope, and the tensors of each layer, as their configuration has them.

A module takes the `Decoder` that this makes and changes the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from edgeinfer.converters.huggingface.architectures.rope import rope_keys, scaling_of
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, Value, copy
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.errors import FormatError, UnsupportedModel

__all__ = ["Decoder", "Sizes", "decoder", "finished", "only", "refuse", "sizes_of"]

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_PARTS_OF_OTHERS = ("vision_tower.", "multi_modal_projector.", "vision_model.", "audio_tower.")


@dataclass(frozen=True, slots=True)
class Sizes:
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int

    @property
    def q(self) -> int:
        return self.n_heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.n_kv_heads * self.head_dim


@dataclass(slots=True)
class Decoder:
    """A decoder in the making. ``layer_prefix`` begins the names of layer tensors in the checkpoint, up to the number;
    ``targets`` by GGUF name."""

    checkpoint: Checkpoint
    config: Fields
    sizes: Sizes
    prefix: str
    keys: dict[str, Value]
    targets: dict[str, Target]
    notes: list[str]

    def each_layer(self, make: Callable[[int, str, str], Mapping[str, Target]]) -> None:
        """Add or replace tensors of every layer: ``make(layer, blk, hf)`` with the beginnings of both kinds of name."""
        for layer in range(self.sizes.n_layers):
            self.targets.update(make(layer, f"blk.{layer}.", f"{self.prefix}layers.{layer}."))

    def drop(self, *names: str) -> None:
        """Remove tensors of every layer, named without ``blk.N.``."""
        for layer in range(self.sizes.n_layers):
            for name in names:
                self.targets.pop(f"blk.{layer}.{name}", None)


def sizes_of(config: Fields) -> Sizes:
    """Raises `FormatError` for sizes that do not fit each other."""
    n_embd, n_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    n_kv_heads = config.integer("num_key_value_heads", n_heads)
    if n_heads % n_kv_heads:
        raise config.wrong("num_key_value_heads", f"is {n_kv_heads}, which does not divide {n_heads} heads")
    if "head_dim" not in config and n_embd % n_heads:
        raise config.wrong("num_attention_heads", f"is {n_heads}, which does not divide hidden_size {n_embd}")
    return Sizes(
        n_layers=config.integer("num_hidden_layers", high=512),
        n_embd=n_embd,
        n_ff=config.integer("intermediate_size"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=config.integer("head_dim", n_embd // n_heads),
        n_vocab=config.integer("vocab_size"),
    )


def decoder(
    checkpoint: Checkpoint,
    defaults: Mapping[str, object] | None = None,
    text: Fields | None = None,
    ropes: Container[str] = (),
) -> Decoder:
    """The plain decoder: norm, attention, norm, gated feed-forward, no biases. ``defaults`` are those of the
    architecture's class for what config.json leaves out; ``text``: the text part of a configuration of several;
    ``ropes``: what `rope_keys` may take for known."""
    config = (text or checkpoint.config).with_defaults({"tie_word_embeddings": False, **(defaults or {})})
    sizes = sizes_of(config)
    scaling = scaling_of(config)
    keys: dict[str, Value] = {
        "block_count": sizes.n_layers,
        "context_length": config.integer("max_position_embeddings"),
        "embedding_length": sizes.n_embd,
        "feed_forward_length": sizes.n_ff,
        "attention.head_count": sizes.n_heads,
        "attention.head_count_kv": sizes.n_kv_heads,
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps"),
        "vocab_size": sizes.n_vocab,
        **rope_keys(config, scaling, sizes.head_dim, ropes),
    }
    prefix = _prefix(checkpoint)
    made = Decoder(checkpoint, config, sizes, prefix, keys, {}, [])
    made.targets = {
        "token_embd.weight": copy("token_embd.weight", prefix + _EMBEDDING, sizes.n_vocab, sizes.n_embd),
        "output_norm.weight": copy("output_norm.weight", prefix + "norm.weight", sizes.n_embd),
    }
    head = _head(checkpoint)
    if not config.flag("tie_word_embeddings") and (head or not checkpoint.model_class.endswith("Model")):
        made.targets["output.weight"] = copy("output.weight", head or _HEAD, sizes.n_vocab, sizes.n_embd)
    made.each_layer(lambda _layer, blk, hf: _layer_tensors(sizes, blk, hf))
    return made


def _layer_tensors(sizes: Sizes, blk: str, hf: str) -> dict[str, Target]:
    width = sizes.n_embd
    found = (
        copy(blk + "attn_norm.weight", hf + "input_layernorm.weight", width),
        copy(blk + "attn_q.weight", hf + "self_attn.q_proj.weight", sizes.q, width),
        copy(blk + "attn_k.weight", hf + "self_attn.k_proj.weight", sizes.kv, width),
        copy(blk + "attn_v.weight", hf + "self_attn.v_proj.weight", sizes.kv, width),
        copy(blk + "attn_output.weight", hf + "self_attn.o_proj.weight", width, sizes.q),
        copy(blk + "ffn_norm.weight", hf + "post_attention_layernorm.weight", width),
        copy(blk + "ffn_gate.weight", hf + "mlp.gate_proj.weight", sizes.n_ff, width),
        copy(blk + "ffn_up.weight", hf + "mlp.up_proj.weight", sizes.n_ff, width),
        copy(blk + "ffn_down.weight", hf + "mlp.down_proj.weight", width, sizes.n_ff),
    )
    return {target.name: target for target in found}


def finished(made: Decoder, architecture: str) -> Description:
    """The decoder as a description, with everything that the checkpoint may hold besides."""
    used = {source.name for target in made.targets.values() for source in target.sources}
    unused = {
        name
        for name in made.checkpoint.tensors
        if name.endswith("rotary_emb.inv_freq")
        or (name == _head(made.checkpoint) and name not in used)  # tied: it is the embedding again
        or any(part in name for part in _PARTS_OF_OTHERS)
    }
    others = [name for name in unused if any(part in name for part in _PARTS_OF_OTHERS)]
    if others:
        made.notes.append(f"{len(others)} tensors for images or sound are left out: the model reads text")
    return Description(
        architecture,
        made.keys,
        tuple(made.targets.values()),
        made.sizes.n_vocab,
        unused=frozenset(unused),
        notes=tuple(made.notes),
    )


def only(config: Fields, key: str, *allowed: object) -> None:
    """Raise `UnsupportedModel` where a setting is there with another value than these."""
    if key in config and config.raw(key) not in allowed:
        raise refuse(config, f"{key} is {config.raw(key)!r}")


def refuse(config: Fields, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"{config.where}: {what}, which llama.cpp's graph of this architecture does not do")


def _prefix(checkpoint: Checkpoint) -> str:
    """What stands before the names of the decoder's tensors: ``model.``, or more where it is part of something."""
    found = [name for name in checkpoint.tensors if name == _EMBEDDING or name.endswith("." + _EMBEDDING)]
    if len(found) > 1:
        raise FormatError(f"{checkpoint.folder} has {len(found)} token embeddings: {', '.join(sorted(found)[:4])}")
    return found[0][: -len(_EMBEDDING)] if found else "model."


def _head(checkpoint: Checkpoint) -> str | None:
    names = (name for name in checkpoint.tensors if name == _HEAD or name.endswith("." + _HEAD))
    return next(names, None)
