"""Scripted models for the tests of the server: they answer by what they are told, in milliseconds, and misbehave when
asked to. Opened by name, so that a process of its own can open them too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeinfer.core import ModelInfo
from edgeinfer.engines.base import Logits, Slice
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.errors import FormatError, InsufficientMemory
from edgeinfer.llm import LLM
from edgeinfer.text import ChatTemplate
from edgeinfer.text.byte_tokenizer import ByteTokenizer

OPENER = "server_models:open_scripted"
TURN, END = 258, 257
TEMPLATE = (
    "{% if tools %}<|turn|>system: {{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}<|turn|>assistant: "
)
PLAIN = "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{% endfor %}<|turn|>assistant: "
INFO = ModelInfo("scripted", "/nowhere", "script", 1000, 1, 259, 4096, 1, 8, 1, 1, 8, {"F16": 1.0}, 16.0)


def reply(question: str) -> str:
    """What is said to this: ``say X`` gives X, ``count N`` gives N numbers, all else is said back."""
    word, _, rest = question.partition(" ")
    if word == "say":
        return rest
    if word == "count":
        return " ".join(str(i) for i in range(int(rest)))
    return f"You said: {question}"


def next_token(tokens: Sequence[int]) -> int:
    """The next byte of the reply to the last turn; of a raw text, its own bytes over and over."""
    turns = [i for i, token in enumerate(tokens) if token == TURN]
    if not turns:
        return tokens[-1] if tokens[-1] < 256 else ord("x")
    begin = turns[-1] + 1 + len("assistant: ")
    if len(tokens) < begin:
        return END
    before = turns[-2] + 1 if len(turns) > 1 else 0
    question = bytes(token for token in tokens[before : turns[-1]] if token < 256).decode("utf-8", "replace")
    answer = reply(question.partition(": ")[2]).encode()
    n_said = len(tokens) - begin
    return answer[n_said] if n_said < len(answer) else END


class Engine(ScriptedEngine):
    """``HANG`` in a prompt: the pass does not end. ``CRASH``: the process does."""

    def forward(self, slices: Sequence[Slice]) -> Logits:
        for part in slices:
            text = bytes(token for token in part.token_ids if token < 256)
            if b"HANG" in text:
                time.sleep(3600)
            if b"CRASH" in text:
                os._exit(9)
        return super().forward(slices)


def open_scripted(arguments: Mapping[str, Any], said: Callable[[str], None]) -> LLM:
    """``arguments``: n_ctx, n_parallel, step_s; ``slow_s``: seconds that opening takes; ``busy_s``: seconds that it
    computes for; ``hangs``: opening does not end, of a path only where no such file is there yet; ``broken``: it fails;
    ``needs``: bytes beyond which ``memory`` is not enough; ``tools``: false for a template that knows none; ``chats``:
    false for no template."""
    said("opening")
    time.sleep(arguments.get("slow_s", 0.0))
    end = time.monotonic() + arguments.get("busy_s", 0.0)
    while time.monotonic() < end:
        pass
    _hang(arguments.get("hangs", False))
    if arguments.get("broken"):
        raise FormatError("this model is damaged")
    needs, cap = arguments.get("needs", 0), arguments.get("memory")
    if cap is not None and needs > cap:
        raise InsufficientMemory(f"this needs {needs} bytes, but --memory allows {cap}", 0)
    n_parallel = arguments.get("n_parallel", 4)
    engine = Engine(
        next_token,
        n_vocab=259,
        n_ctx=arguments.get("n_ctx", 4096),
        n_seq_max=n_parallel + 2,
        step_s=arguments.get("step_s", 0.0),
    )
    template = ChatTemplate(TEMPLATE if arguments.get("tools", True) else PLAIN, bos_text="", eos_text="")
    chats = arguments.get("chats", True)
    llm = LLM.from_engine(
        engine, ByteTokenizer(), template=template if chats else None, info=INFO, n_parallel=n_parallel
    )
    if needs:
        llm.plan = _Plan(needs)  # type: ignore[assignment]
    return llm


def _hang(how: bool | str) -> None:
    if isinstance(how, str):
        there = os.path.exists(how)
        open(how, "w").close()
        how = not there
    if how:
        time.sleep(3600)


class _Plan:
    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
