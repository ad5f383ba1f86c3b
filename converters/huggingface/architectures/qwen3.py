"""qwen3: the plain decoder with a norm of each head of Q and K."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.base import Decoder, decoder, finished, only
from edgeinfer.converters.huggingface.architectures.llama import end_at_window
from edgeinfer.converters.huggingface.architectures.qwen2 import DEFAULTS
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy

__all__ = ["describe", "qwen3"]


def describe(checkpoint: Checkpoint) -> Description:
    made = qwen3(checkpoint, {"head_dim": 128})
    end_at_window(made, by_layer=True)
    return finished(made, "qwen3")


def qwen3(checkpoint: Checkpoint, defaults: dict[str, object]) -> Decoder:
    """What the mixture of experts begins with too."""
    made = decoder(checkpoint, {**DEFAULTS, **defaults})
    only(made.config, "hidden_act", "silu")
    only(made.config, "attention_bias", False)
    head_dim = made.sizes.head_dim

    def norms(_layer: int, blk: str, hf: str) -> dict[str, Target]:
        found = [
            copy(f"{blk}attn_{which}_norm.weight", f"{hf}self_attn.{which}_norm.weight", head_dim) for which in "qk"
        ]
        return {target.name: target for target in found}

    made.each_layer(norms)
    return made
