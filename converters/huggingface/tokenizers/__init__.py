"""A checkpoint's tokenizer as the vocabulary of a GGUF model, for llama.cpp to split text as Hugging Face's does."""

from __future__ import annotations

from edgeinfer.converters.huggingface.tokenizers.reading import read_vocabulary
from edgeinfer.converters.huggingface.tokenizers.vocabulary import Vocabulary

__all__ = ["Vocabulary", "read_vocabulary"]
