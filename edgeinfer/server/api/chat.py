"""`POST /v1/chat/completions`: OpenAI's chat API."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from edgeinfer.bodies.chat import ChatBody
from edgeinfer.bodies.fields import Toolbox
from edgeinfer.bodies.parts import chosen_logprobs, finish_word, usage_part
from edgeinfer.bodies.tools import CallParser, ToolCall
from edgeinfer.core import Answer, Token
from edgeinfer.server.asking import Ask, Asking, Running, timings, usage
from edgeinfer.server.problems import JSON, told
from edgeinfer.server.sse import EventStream, event, unless_left
from edgeinfer.server.workers.model import Model

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
    choices = [_choice(i, answer, box, running.model) for i, answer in enumerate(answers)]
    stats = usage(answers)
    costs = {"usage": usage_part(stats), "timings": timings(answers[0].stats)}
    return JSON({**head, "object": "chat.completion", "choices": choices, **costs})


def _choice(i: int, answer: Answer, box: Toolbox, model: Model) -> dict[str, Any]:
    parser = CallParser(box.names) if box.names else None
    parts = [*parser.feed(answer.text), *parser.flush()] if parser else [answer.text]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    text = "".join(part for part in parts if isinstance(part, str))
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return {
        "index": i,
        "message": message,
        "logprobs": chosen_logprobs(answer.tokens, model.token_bytes),
        "finish_reason": "tool_calls" if calls else finish_word(answer),
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


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
    parsers: dict[int, CallParser] = {}
    n_calls: dict[int, int] = {}
    async for i, got in running.events():
        if i not in n_calls:
            n_calls[i] = 0
            parsers[i] = CallParser(box.names)
            yield _delta(i, {"role": "assistant", "content": "", "refusal": None})
        if isinstance(got, Token):
            parts = parsers[i].feed(got.text) if box.names else [got.text]
            logprobs = chosen_logprobs((got,), running.model.token_bytes)
        else:
            parts, logprobs = parsers[i].flush() if box.names else [], None
        for part in parts:
            if isinstance(part, ToolCall):
                yield _delta(i, {"tool_calls": [{"index": n_calls[i], **_call(part)}]})
                n_calls[i] += 1
            elif part:
                yield _delta(i, {"content": part}, logprobs)
                logprobs = None
        if logprobs:  # its text is held back
            yield _delta(i, {"content": ""}, logprobs)
        if isinstance(got, Answer):
            reason = "tool_calls" if n_calls[i] else finish_word(got)
            yield {**_delta(i, {}), "finish_reason": reason, "timings": timings(got.stats)}


def _delta(i: int, delta: dict[str, Any], logprobs: Any = None) -> dict[str, Any]:
    return {"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": None}
