"""phi3: Phi 3, 3.5 and 4. The plain decoder with Q, K and V in one matrix, gate and up in another, and factors for each
pair's rotation in the models of long context."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.base import decoder, finished, only, refuse
from edgeinfer.converters.huggingface.architectures.llama import end_at_window
from edgeinfer.converters.huggingface.architectures.rope import longrope, scaling_of
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, copy

__all__ = ["describe"]

_DEFAULTS = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096}


def describe(checkpoint: Checkpoint) -> Description:
    made = decoder(checkpoint, _DEFAULTS, ropes=("longrope", "partial"))
    config, sizes = made.config, made.sizes
    only(config, "hidden_act", "silu")
    if sizes.q != sizes.n_embd:
        raise refuse(config, f"{sizes.n_heads} heads of {sizes.head_dim} are not the width of {sizes.n_embd}")

    def fused(_layer: int, blk: str, hf: str) -> dict[str, Target]:
        qkv = copy(blk + "attn_qkv.weight", hf + "self_attn.qkv_proj.weight", sizes.q + 2 * sizes.kv, sizes.n_embd)
        up = copy(blk + "ffn_up.weight", hf + "mlp.gate_up_proj.weight", 2 * sizes.n_ff, sizes.n_embd)
        return {qkv.name: qkv, up.name: up}

    made.drop("attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_gate.weight")
    made.each_layer(fused)
    end_at_window(made)
    n_rotated, n_ctx = (int(str(made.keys[key])) for key in ("rope.dimension_count", "context_length"))
    keys, targets = longrope(config, scaling_of(config), n_rotated, n_ctx)
    made.keys.update(keys)
    made.targets.update({target.name: target for target in targets})
    # 0, which tells llama.cpp that there is no window: without the key it takes its own.
    made.keys["attention.sliding_window"] = 0
    return finished(made, "phi3")
