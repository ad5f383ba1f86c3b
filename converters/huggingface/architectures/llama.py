"""llama: Llama 2 and 3, SmolLM2, Mistral 7B. The plain decoder, with the rows of Q and K in another order."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.base import Decoder, decoder, finished, only
from edgeinfer.converters.huggingface.architectures.rope import llama3_factors, scaling_of
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy, interleaved

__all__ = ["describe", "llama"]


def describe(checkpoint: Checkpoint) -> Description:
    made = llama(checkpoint)
    only(made.config, "hidden_act", "silu")
    return finished(made, "llama")


def llama(checkpoint: Checkpoint) -> Decoder:
    """What Granite and Mixtral begin with too. The rows of each head of Q and K lie in pairs that are rotated together;
    some models have biases; Llama 3 slows down its slowest pairs."""
    made = decoder(checkpoint, {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048})
    config, sizes = made.config, made.sizes
    only(config, "partial_rotary_factor", 1.0)

    def changed(_layer: int, blk: str, hf: str) -> dict[str, Target]:
        found = []
        for which, n_rows in (("q", sizes.q), ("k", sizes.kv)):
            ends = ["weight", "bias"] if config.flag("attention_bias") else ["weight"]
            for end in ends:
                shape = (n_rows, sizes.n_embd) if end == "weight" else (n_rows,)
                name = f"self_attn.{which}_proj.{end}"
                found.append(interleaved(f"{blk}attn_{which}.{end}", hf + name, shape, sizes.head_dim))
        if config.flag("attention_bias"):
            found.append(copy(blk + "attn_v.bias", hf + "self_attn.v_proj.bias", sizes.kv))
            found.append(copy(blk + "attn_output.bias", hf + "self_attn.o_proj.bias", sizes.n_embd))
        if config.flag("mlp_bias"):
            for which, n_rows in (("gate", sizes.n_ff), ("up", sizes.n_ff), ("down", sizes.n_embd)):
                found.append(copy(f"{blk}ffn_{which}.bias", f"{hf}mlp.{which}_proj.bias", n_rows))
        return {target.name: target for target in found}

    made.each_layer(changed)
    factors = llama3_factors(scaling_of(config), sizes.head_dim)
    if factors:
        made.targets[factors.name] = factors
    note_window(made)
    return made


def note_window(made: Decoder) -> None:
    """llama.cpp's graphs without a window attend to everything: the same within the window's length."""
    config = made.config
    window = config.integer("sliding_window", 0, low=0)
    full = config.array("layer_types")
    windowed = "sliding_attention" in full if full else config.flag("use_sliding_window", True)
    if window and windowed and window < config.integer("max_position_embeddings"):
        made.notes.append(
            f"the model attends to a window of {window} tokens, and llama.cpp's graph of it to all: "
            "answers may differ in conversations that are longer"
        )
