"""edgeinfer: language models on the machines people own.

import edgeinfer

with edgeinfer.LLM("smollm2-135m") as llm:
    print(llm.chat([{"role": "user", "content": "What is a Raspberry Pi?"}]).text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "LLM",
    "Answer",
    "EdgeInferError",
    "GenerationStats",
    "Grammar",
    "Message",
    "SamplingParams",
    "Stream",
    "Token",
    "__version__",
    "batch",
]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgeinfer import batch
    from edgeinfer.core import Answer, GenerationStats, Grammar, Message, SamplingParams, Token
    from edgeinfer.errors import EdgeInferError
    from edgeinfer.llm import LLM, Stream

_HOMES = {
    "LLM": "llm",
    "Stream": "llm",
    "EdgeInferError": "errors",
    **dict.fromkeys(("Answer", "GenerationStats", "Grammar", "Message", "SamplingParams", "Token"), "core"),
}


def __getattr__(name: str) -> Any:
    """Public names load on first use, so that ``edgeinfer --help`` and small imports stay quick."""
    if name == "batch":
        return importlib.import_module("edgeinfer.batch")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeinfer' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edgeinfer.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
