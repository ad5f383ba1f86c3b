"""granite: as llama, with four numbers by which embeddings, scores, what layers add, and logits are scaled."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import refuse
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.architectures.llama import llama
from edgeinfer.gguf import GGUFFile

__all__ = ["describe"]


def describe(file: GGUFFile) -> Decoder:
    """Logits are divided by their scale. A scale that a file leaves out is 1; of scores, as elsewhere."""
    plain, meta = llama(file, ("logit_scale",)), file.metadata
    sizes = plain.sizes
    scales = {key: meta.number(f"granite.{key}_scale", 1.0) for key in ("embedding", "residual", "logit")}
    if not all(scale > 0 for scale in scales.values()):
        raise refuse(file, f"its scales are {', '.join(f'{scale:g}' for scale in scales.values())}")
    attention = meta.number("granite.attention.scale", 0.0) or sizes.attention_scale
    return replace(
        plain,
        sizes=replace(sizes, embedding_scale=scales["embedding"], attention_scale=attention),
        residual_scale=scales["residual"],
        logit_scale=1 / scales["logit"],
    )
