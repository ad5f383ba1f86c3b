"""qwen2: Qwen 2 and 2.5. The plain decoder with biases of Q, K and V."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.base import decoder, finished, only
from edgeinfer.converters.huggingface.architectures.llama import end_at_window
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy

__all__ = ["DEFAULTS", "describe"]

DEFAULTS: dict[str, object] = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
"""Of Qwen 3 too."""


def describe(checkpoint: Checkpoint) -> Description:
    made = decoder(checkpoint, DEFAULTS)
    sizes = made.sizes
    only(made.config, "hidden_act", "silu")
    if sizes.q != sizes.n_embd:
        only(made.config, "head_dim", sizes.n_embd // sizes.n_heads)

    def biases(_layer: int, blk: str, hf: str) -> dict[str, Target]:
        rows = (("q", sizes.q), ("k", sizes.kv), ("v", sizes.kv))
        found = [copy(f"{blk}attn_{which}.bias", f"{hf}self_attn.{which}_proj.bias", n) for which, n in rows]
        return {target.name: target for target in found}

    made.each_layer(biases)
    end_at_window(made, by_layer=True)
    return finished(made, "qwen2")
