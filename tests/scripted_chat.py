"""A model that chats by a script, for whoever tests what is above `LLM`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeinfer import LLM
from edgeinfer.core import ModelInfo
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.text import ChatTemplate
from edgeinfer.text.byte_tokenizer import ByteTokenizer

TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant: {% endif %}"
)
ANSWER = "# Räder\n\nA **wheel**:\n\n```python\nturn(1)\n```\n\n- one\n- two\n"


def scripted(name: str = "scripted", *, answer: str = ANSWER, step_s: float = 0.0, n_ctx: int = 4096, **_: Any) -> LLM:
    """A model that answers everything with ``answer``."""
    turn, eos, data = 258, 257, answer.encode()

    def script(tokens: Sequence[int]) -> int:
        begin = max(i for i, token in enumerate(tokens) if token == turn)
        n_said = len(tokens) - (begin + 1) - len("assistant: ")
        return data[n_said] if n_said < len(data) else eos

    engine = ScriptedEngine(script, n_vocab=259, n_ctx=n_ctx, step_s=step_s)
    info = ModelInfo(name, name, "scripted", 1, 1, 259, n_ctx, 1, 8, 1, 1, 8, {}, 8.0)
    template = ChatTemplate(TEMPLATE, bos_text="<s>", eos_text="</s>")
    return LLM.from_engine(engine, ByteTokenizer(), template=template, info=info)
