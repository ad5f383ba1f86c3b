"""`POST /v1/chat/completions`: OpenAI's chat API."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from edgeinfer.bodies.calls import CallBegun, CallParser, CallPart, Part, said
from edgeinfer.bodies.chat import ChatBody
from edgeinfer.bodies.fields import Toolbox
from edgeinfer.bodies.parts import chat_choice, chosen_logprobs, finish_word, usage_part
from edgeinfer.core import Answer, Token
from edgeinfer.server.asking import Ask, Asking, Running, timings, usage
from edgeinfer.server.problems import JSON, told
from edgeinfer.server.sse import EventStream, event, unless_left

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat(request: Request, body: ChatBody) -> Response:
    """Answer a conversation."""
    asking: Asking = request.app.state.asking
    box = body.toolbox()
    ask = Ask(body.model, body.conversation(), body.options(box), n=body.n or 1)
    running = await unless_left(request, asking.begin(ask))
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": running.model.name}
    if body.stream:
        chunks = _chunks(running, box, head, bool(body.stream_options and body.stream_options.include_usage))
        return EventStream(chunks, running.close)
    try:
        answers = await unless_left(request, running.answers())
    finally:
        await running.close()
    choices = [
        chat_choice(i, answer, said(answer.text, box.names), running.model.token_bytes)
        for i, answer in enumerate(answers)
    ]
    stats = usage(answers)
    costs = {"usage": usage_part(stats), "timings": timings(answers[0].stats)}
    return JSON({**head, "object": "chat.completion", "choices": choices, **costs})


# ---- streams


async def _chunks(running: Running, box: Toolbox, head: dict[str, Any], costs: bool) -> AsyncGenerator[bytes, None]:
    head = {**head, "object": "chat.completion.chunk"}
    try:
        async for choice in _deltas(running, box):
            extra = {"usage": None} if costs else {}
            last = choice.pop("timings", None)
            yield event({**head, "choices": [choice], **extra, **({"timings": last} if last else {})})
        if costs:
            yield event({**head, "choices": [], "usage": usage_part(usage(running.finished))})
        yield event("[DONE]")
    except Exception as error:
        yield event(told(error, "/v1/chat/completions"))


async def _deltas(running: Running, box: Toolbox) -> AsyncIterator[dict[str, Any]]:
    """Choices of chunks: a role, then text and calls as they become certain, then why it ended."""
    choices: dict[int, _Choice] = {}
    async for i, got in running.events():
        if i not in choices:
            choices[i] = _Choice(box)
            yield _delta(i, {"role": "assistant", "content": "", "refusal": None})
        logprobs = None
        if isinstance(got, Token):
            logprobs = chosen_logprobs((got,), running.model.token_bytes)
        for delta in choices[i].deltas(got):
            yield _delta(i, delta, logprobs)
            logprobs = None
        if logprobs:  # its text is held back
            yield _delta(i, {"content": ""}, logprobs)
        if isinstance(got, Answer):
            yield {**_delta(i, {}), "finish_reason": choices[i].reason(got), "timings": timings(got.stats)}


class _Choice:
    """One answer of a stream. Of a call the first delta has its name, those that follow its arguments as they are
    written."""

    def __init__(self, box: Toolbox) -> None:
        self._parser = CallParser(box.names) if box.names else None
        self._n_calls = 0

    def deltas(self, got: Token | Answer) -> Iterator[dict[str, Any]]:
        parts: list[Part] = [got.text] if isinstance(got, Token) else []
        if self._parser is not None:
            parts = self._parser.feed(got.text) if isinstance(got, Token) else self._parser.flush()
        for part in parts:
            if isinstance(part, CallBegun):
                function = {"name": part.name, "arguments": ""}
                call = {"index": self._n_calls, "id": part.id, "type": "function", "function": function}
                self._n_calls += 1
                yield {"tool_calls": [call]}
            elif isinstance(part, CallPart) and part.text:
                yield {"tool_calls": [{"index": self._n_calls - 1, "function": {"arguments": part.text}}]}
            elif isinstance(part, str) and part:
                yield {"content": part}

    def reason(self, answer: Answer) -> str:
        return finish_word(answer, called=self._n_calls > 0, half=self._parser is not None and self._parser.half)


def _delta(i: int, delta: dict[str, Any], logprobs: Any = None) -> dict[str, Any]:
    return {"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": None}
