"""olmo2: OLMo 2. Norms come after attention and feed-forward instead of before, and one over all of Q and one of K."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.huggingface.architectures.base import decoder, finished, only
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy

__all__ = ["describe"]


def describe(checkpoint: Checkpoint) -> Description:
    made = decoder(checkpoint, {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048})
    sizes = made.sizes
    only(made.config, "hidden_act", "silu")
    only(made.config, "attention_bias", False)

    def norms(_layer: int, blk: str, hf: str) -> dict[str, Target]:
        found = (
            copy(blk + "post_attention_norm.weight", hf + "post_attention_layernorm.weight", sizes.n_embd),
            copy(blk + "post_ffw_norm.weight", hf + "post_feedforward_layernorm.weight", sizes.n_embd),
            copy(blk + "attn_q_norm.weight", hf + "self_attn.q_norm.weight", sizes.q),
            copy(blk + "attn_k_norm.weight", hf + "self_attn.k_norm.weight", sizes.kv),
        )
        return {target.name: target for target in found}

    made.drop("attn_norm.weight", "ffn_norm.weight")
    made.each_layer(norms)
    if "output.weight" not in made.targets:  # tied, which llama.cpp's olmo2 does not know: the same rows twice
        made.targets["output.weight"] = replace(made.targets["token_embd.weight"], name="output.weight")
    return finished(made, "olmo2")
