"""llama: Llama 2 and 3, SmolLM2, Mistral 7B. The plain decoder, with the rows of Q and K in another order."""

from __future__ import annotations

from collections.abc import Mapping

from edgeinfer.converters.huggingface.architectures.base import Decoder, decoder, finished, only
from edgeinfer.converters.huggingface.architectures.rope import llama3_factors, scaling_of
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy, interleaved

__all__ = ["describe", "llama"]


def describe(checkpoint: Checkpoint) -> Description:
    """Of the two classes Mistral alone has a window: one of 4096 where nothing is said, none where it is null."""
    mistral = checkpoint.model_class.startswith("Mistral")
    given = mistral and not checkpoint.config.is_null("sliding_window")
    made = llama(checkpoint, {"sliding_window": 4096} if given else {})
    only(made.config, "hidden_act", "silu")
    if mistral:
        end_at_window(made)
    return finished(made, "llama")


def llama(checkpoint: Checkpoint, defaults: Mapping[str, object] | None = None) -> Decoder:
    """What Granite and Mixtral begin with too. The rows of each head of Q and K lie in pairs that are rotated together;
    some models have biases; Llama 3 slows down its slowest pairs."""
    known = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, **(defaults or {})}
    made = decoder(checkpoint, known, ropes=("llama3",))
    config, sizes = made.config, made.sizes

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
    factors = llama3_factors(config, scaling_of(config), sizes.head_dim)
    if factors:
        made.targets[factors.name] = factors
    return made


def end_at_window(made: Decoder, *, by_layer: bool = False) -> None:
    """Where layers see a window only, llama.cpp's graph of them sees everything. Up to the window's length that is the
    same, so the context ends there. ``by_layer``: the class looks at ``layer_types``, or at ``max_window_layers``."""
    config = made.config
    window = config.integer("sliding_window", 0, low=0)
    if by_layer:
        types = config.array("layer_types")
        first = config.integer("max_window_layers", low=0)
        some = "sliding_attention" in types if types else first < made.sizes.n_layers
        window = window if some else 0
    if config.flag("use_sliding_window", True) and 0 < window < int(str(made.keys["context_length"])):
        made.keys["context_length"] = window
        made.notes.append(
            f"the model attends to a window of {window} tokens, and llama.cpp's graph of it to all, which is the same "
            f"up to there: the context is {window} tokens"
        )
