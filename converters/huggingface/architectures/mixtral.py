"""mixtral: as llama, with a mixture of experts in place of each feed-forward part."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.base import finished, only
from edgeinfer.converters.huggingface.architectures.llama import end_at_window, llama
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy, stacked

__all__ = ["describe"]

_DEFAULTS = {"rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "rope_theta": 1e6}
_MATRICES = (("gate", "w1"), ("down", "w2"), ("up", "w3"))


def describe(checkpoint: Checkpoint) -> Description:
    made = llama(checkpoint, _DEFAULTS)
    config, sizes = made.config, made.sizes
    only(config, "hidden_act", "silu")
    n_experts = config.integer("num_local_experts", 8, high=1024)
    made.keys["expert_count"] = n_experts
    made.keys["expert_used_count"] = config.integer("num_experts_per_tok", 2, high=n_experts)

    def experts(_layer: int, blk: str, hf: str) -> dict[str, Target]:
        moe = hf + "block_sparse_moe."
        found = [copy(blk + "ffn_gate_inp.weight", moe + "gate.weight", n_experts, sizes.n_embd)]
        for which, theirs in _MATRICES:
            shape = (sizes.n_embd, sizes.n_ff) if which == "down" else (sizes.n_ff, sizes.n_embd)
            names = (f"{moe}experts.{expert}.{theirs}.weight" for expert in range(n_experts))
            found.append(stacked(f"{blk}ffn_{which}_exps.weight", names, *shape))
        return {target.name: target for target in found}

    made.drop("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight")
    made.each_layer(experts)
    end_at_window(made)
    return finished(made, "llama")
