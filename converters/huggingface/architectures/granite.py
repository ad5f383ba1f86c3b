"""granite: as llama, with four numbers by which embeddings, attention, what layers add, and logits are scaled."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.base import finished, only
from edgeinfer.converters.huggingface.architectures.llama import llama
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description

__all__ = ["describe"]

_SCALES = (
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
)


def describe(checkpoint: Checkpoint) -> Description:
    made = llama(checkpoint)
    only(made.config, "hidden_act", "silu")
    for ours, theirs in _SCALES:
        scale = made.config.number(theirs, 1.0)
        if scale == 0:
            raise made.config.wrong(theirs, "is 0")
        made.keys[ours] = scale
    return finished(made, "granite")
