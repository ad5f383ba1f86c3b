"""nomic-bert: as bert, with rope and a gated feed-forward part."""

from __future__ import annotations

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.architectures.encoder import encoder
from edgeinfer.gguf import GGUFFile

__all__ = ["describe"]


def describe(file: GGUFFile) -> Decoder:
    return encoder(file, rotated=True, gated=True)
