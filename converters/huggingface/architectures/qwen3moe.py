"""qwen3moe: as qwen3, with a mixture of experts in place of each feed-forward part."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.base import finished, only, refuse
from edgeinfer.converters.huggingface.architectures.llama import end_at_window
from edgeinfer.converters.huggingface.architectures.qwen3 import qwen3
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy, stacked

__all__ = ["describe"]


def describe(checkpoint: Checkpoint) -> Description:
    made = qwen3(checkpoint, {})
    config, sizes = made.config, made.sizes
    only(config, "mlp_only_layers", [])
    only(config, "decoder_sparse_step", 1)
    if not config.flag("norm_topk_prob"):
        raise refuse(config, "norm_topk_prob is false (the weights of the chosen experts do not add up to 1)")
    n_experts = config.integer(config.first("num_experts", "num_local_experts"), 128, high=1024)
    n_ff = config.integer("moe_intermediate_size")
    made.keys["expert_count"] = n_experts
    made.keys["expert_used_count"] = config.integer("num_experts_per_tok", 8, high=n_experts)
    made.keys["expert_feed_forward_length"] = n_ff

    def experts(_layer: int, blk: str, hf: str) -> dict[str, Target]:
        found = [copy(blk + "ffn_gate_inp.weight", hf + "mlp.gate.weight", n_experts, sizes.n_embd)]
        for which in ("gate", "up", "down"):
            shape = (sizes.n_embd, n_ff) if which == "down" else (n_ff, sizes.n_embd)
            names = (f"{hf}mlp.experts.{expert}.{which}_proj.weight" for expert in range(n_experts))
            found.append(stacked(f"{blk}ffn_{which}_exps.weight", names, *shape))
        return {target.name: target for target in found}

    made.drop("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight")
    made.each_layer(experts)
    end_at_window(made)
    return finished(made, "qwen3moe")
