"""bert: BERT, RoBERTa, MiniLM, BGE, E5."""

from __future__ import annotations

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.architectures.encoder import encoder
from edgeinfer.gguf import GGUFFile

__all__ = ["describe"]


def describe(file: GGUFFile) -> Decoder:
    """Embedded positions and a plain feed-forward part."""
    return encoder(file, rotated=False, gated=False)
