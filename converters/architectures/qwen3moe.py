"""qwen3moe: as qwen3, with a mixture of experts in place of each feed-forward part."""

from __future__ import annotations

from edgeinfer.converters.architectures.base import base
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.architectures.experts import with_experts
from edgeinfer.converters.architectures.qwen3 import qwen3
from edgeinfer.gguf import GGUFFile

__all__ = ["describe"]


def describe(file: GGUFFile) -> Decoder:
    return with_experts(qwen3(base(file, ("expert_count",))), file)
