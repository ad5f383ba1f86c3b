"""A scripted model for the workers of a cluster, which open it by name; slow enough to be killed at work."""

from __future__ import annotations

import os
from collections.abc import Sequence

from edgeinfer.engines.base import Logits, Slice
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.errors import ModelNotFound
from edgeinfer.llm import LLM
from edgeinfer.text import ChatTemplate
from edgeinfer.text.byte_tokenizer import ByteTokenizer

OPENER = "ray_models:open_scripted"
TEMPLATE = "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{% endfor %}<|turn|>assistant: "


class _Engine(ScriptedEngine):
    """``CRASH`` in a prompt: the process dies."""

    def forward(self, slices: Sequence[Slice]) -> Logits:
        for part in slices:
            if b"CRASH" in bytes(token for token in part.token_ids if token < 256):
                os._exit(1)
        self.calls.clear()
        return super().forward(slices)


def open_scripted(step_s: float = 0.0, n_parallel: int = 4, fails: bool = False) -> LLM:
    if fails:
        raise ModelNotFound("no model 'x'")
    engine = _Engine(lambda tokens: 33 + sum(tokens) % 90, n_vocab=259, n_ctx=512, n_seq_max=n_parallel, step_s=step_s)
    return LLM.from_engine(engine, ByteTokenizer(), template=ChatTemplate(TEMPLATE, bos_text="", eos_text=""))
