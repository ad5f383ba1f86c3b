"""What is known of each architecture of Hugging Face's: one module each, which describes a checkpoint as a GGUF model.

Registered once, by the class that ``config.json`` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from edgeinfer.errors import UnsupportedModel
from edgeinfer.gguf.header import shown

if TYPE_CHECKING:
    from edgeinfer.converters.huggingface.checkpoint import Checkpoint
    from edgeinfer.converters.huggingface.description import Description

__all__ = ["CLASSES", "describe"]

CLASSES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "LlamaModel": "llama",
    "MistralForCausalLM": "llama",
    "MistralModel": "llama",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2Model": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3Model": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Phi3ForCausalLM": "phi3",
    "Olmo2ForCausalLM": "olmo2",
    "GraniteForCausalLM": "granite",
    "BertModel": "bert",
    "BertForMaskedLM": "bert",
    "RobertaModel": "roberta",
    "RobertaForMaskedLM": "roberta",
    "XLMRobertaModel": "roberta",
    "XLMRobertaForMaskedLM": "roberta",
    "NomicBertModel": "nomic_bert",
}
"""Class -> module of this package with ``describe(checkpoint) -> Description``."""


def describe(checkpoint: Checkpoint) -> Description:
    """The checkpoint as a GGUF model. Raises `UnsupportedModel` with the classes there are, and for one that does what
    llama.cpp's graph of its architecture does not; `FormatError` for a configuration that makes no sense."""
    name = checkpoint.model_class
    if name not in CLASSES:
        what = f"is of class {shown(name)}" if name else "names no class (architectures in config.json)"
        raise UnsupportedModel(f"{checkpoint.folder} {what}; convertible are: {', '.join(sorted(CLASSES))}")
    made: Description = import_module(f"{__name__}.{CLASSES[name]}").describe(checkpoint)
    return made
