"""roberta: RoBERTa and XLM-RoBERTa. As bert, with positions that are counted from behind the padding token's id."""

from __future__ import annotations

from edgeinfer.converters.huggingface.architectures.bert import bert
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description

__all__ = ["describe"]


def describe(checkpoint: Checkpoint) -> Description:
    return bert(checkpoint, checkpoint.config.integer("pad_token_id", 1, low=0) + 1)
