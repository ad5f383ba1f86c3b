"""An LLM over the scripted engine that says back what it was told, for the tests of chat and generate."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edgeinfer.core import ModelInfo
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.llm import LLM
from edgeinfer.speculate import Speculator
from edgeinfer.text import ChatTemplate
from edgeinfer.text.byte_tokenizer import ByteTokenizer

TEMPLATE = "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{% endfor %}<|turn|>assistant: "
TURN, END = 258, 257
INFO = ModelInfo("scripted", "/nowhere", "script", 1000, 1, 259, 4096, 1, 8, 1, 1, 8, {"F16": 1.0}, 16.0)

Reply = Callable[[str], str]
MakeLLM = Callable[..., LLM]


def script(reply: Reply, seen: list[str], raw: bool) -> Callable[[Sequence[int]], int]:
    """Next token of ``reply(question)``, byte by byte. The whole prompt is noted in ``seen`` at each answer's first."""

    def next_token(tokens: Sequence[int]) -> int:
        turns = [i for i, token in enumerate(tokens) if token == TURN]
        begin = 0 if raw or not turns else turns[-1] + 1 + len("assistant: ")
        if len(tokens) < begin:
            return END
        if raw:
            said = bytes(tokens).decode()
            if not seen or not said.startswith(seen[-1]):
                seen.append(said)
            question, n_said = seen[-1], len(said) - len(seen[-1])
        else:
            question = bytes(tokens[turns[-2] + 1 + len("user: ") : turns[-1]]).decode()
            n_said = len(tokens) - begin
            if n_said == 0:
                seen.append("".join("|" if token == TURN else chr(token) for token in tokens if token != END))
        answer = reply(question).encode()
        return answer[n_said] if n_said < len(answer) else END

    return next_token


class Scripted:
    """Makes LLMs; ``seen`` are the prompts they were given."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.reply: Reply = lambda question: f"You said: {question}"
        self.opened: list[tuple[str, dict[str, Any]]] = []
        self.raw = False
        self.n_ctx = 4096
        self.step_s = 0.0
        self.info = INFO
        self.n_seq_max = 1
        self.speculator: Callable[[], Speculator | None] = lambda: None

    def __call__(self, model: str | None, arguments: dict[str, Any], *, spinner: bool = False) -> LLM:  # noqa: ARG002
        """In place of `edgeinfer.cli.loading.open_llm`."""
        self.opened.append((model or "", arguments))
        tokenizer = ByteTokenizer()
        engine = ScriptedEngine(
            script(lambda question: self.reply(question), self.seen, self.raw),
            n_vocab=tokenizer.n_vocab,
            n_ctx=self.n_ctx,
            n_seq_max=self.n_seq_max,
            step_s=self.step_s,
        )
        template = ChatTemplate(TEMPLATE, bos_text="", eos_text="")
        return LLM.from_engine(
            engine,
            tokenizer,
            template=template,
            info=self.info,
            speculator=self.speculator() if arguments.get("draft") != "off" else None,
            on_overflow=arguments.get("on_overflow", "error"),
        )


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Every model that a command opens is a scripted one; standard input is empty."""
    made = Scripted()
    monkeypatch.setattr("edgeinfer.cli.loading.open_llm", made)
    monkeypatch.setattr("edgeinfer.cli.loading.fetch", lambda _name: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return made
