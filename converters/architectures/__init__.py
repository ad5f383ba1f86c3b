"""What converters know of each architecture: one module each, which describes a model as a `Decoder` from its metadata.

Registered once, by the name that GGUF files have for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgeinfer.errors import UnsupportedModel

if TYPE_CHECKING:
    from edgeinfer.converters.architectures.decoder import Decoder
    from edgeinfer.gguf import GGUFFile

__all__ = ["ARCHITECTURES", "describe"]

ARCHITECTURES = (
    *("llama", "qwen2", "qwen3", "gemma3", "gemma2", "phi3", "olmo2", "granite", "qwen3moe"),
    *("bert", "nomic-bert"),
)
"""Each is a module of this package (with _ for -) with ``describe(file) -> Decoder``."""


def describe(file: GGUFFile) -> Decoder:
    """The model in a GGUF file, or in what says the same of a checkpoint.

    Raises `UnsupportedModel` with the architectures there are, and for one that does what its architecture's graph
    does not; `FormatError` for metadata that contradict each other.
    """
    if file.architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{file.path} is of architecture {file.architecture!r}, which has no ONNX form here; "
            f"there are: {', '.join(ARCHITECTURES)}"
        )
    made: Decoder = import_module(f"{__name__}.{file.architecture.replace('-', '_')}").describe(file)
    return made
