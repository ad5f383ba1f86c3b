"""Mixtures of experts: in the place of each feed-forward part a router and several parts, which a file has in three
matrices, one expert below the other."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import each_layer, refuse, without
from edgeinfer.converters.architectures.decoder import Decoder, Experts
from edgeinfer.gguf import GGUFFile

__all__ = ["with_experts"]


def with_experts(plain: Decoder, file: GGUFFile) -> Decoder:
    """The decoder with experts where the file has them; as it is where not. Raises `UnsupportedModel` for kinds of
    routing that its graph does not do."""
    meta, name, sizes = file.metadata, file.architecture, plain.sizes
    n = meta.integer(f"{name}.expert_count", 0)
    if not n:
        return plain
    for key in ("expert_shared_count", "expert_group_count", "leading_dense_block_count"):
        if meta.integer(f"{name}.{key}", 0):
            raise refuse(file, f"{key} is {meta.integer(f'{name}.{key}')}")
    if meta.number(f"{name}.expert_weights_scale", 1.0) not in (0.0, 1.0):
        raise refuse(file, "the experts' weights are scaled")
    n_used = meta.integer(f"{name}.expert_used_count")
    n_ff = meta.integer(f"{name}.expert_feed_forward_length", sizes.n_ff)
    width = sizes.n_embd
    shapes = {
        "ffn_gate_inp.weight": (n, width),
        "ffn_gate_exps.weight": (n, n_ff, width),
        "ffn_up_exps.weight": (n, n_ff, width),
        "ffn_down_exps.weight": (n, width, n_ff),
    }
    required = without(plain.required, "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight")
    return replace(
        plain,
        sizes=replace(sizes, n_ff=n_ff),
        required={**required, **each_layer(plain, shapes)},
        experts=Experts(n, n_used, n_ff),
    )
