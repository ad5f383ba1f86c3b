"""`POST /v1/chat/completions`: OpenAI's chat API."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from edgeinfer.core import Answer, Grammar, Token
from edgeinfer.server import formats
from edgeinfer.server.api.fields import Body, Function, Sampling, StreamOptions, Toolbox, arguments_of, text_of, toolbox
from edgeinfer.server.api.openai_parts import chosen_logprobs, finish_word, usage_part
from edgeinfer.server.asking import Ask, Asking, Running, timings, usage
from edgeinfer.server.problems import JSON, Problem, told
from edgeinfer.server.sse import EventStream, event, unless_left
from edgeinfer.server.tools import CallParser, ToolCall
from edgeinfer.server.workers.model import Model

__all__ = ["ChatBody", "ChatMessage", "Tool", "message_for_template", "router"]


class CalledFunction(Body):
    name: str
    arguments: str


class CallPart(Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


Content = str | list[dict[str, Any]] | None


class ChatMessage(Body):
    """One turn. ``developer`` is another word for ``system``."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: str | None = None
    tool_calls: list[CallPart] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class Tool(Body):
    type: Literal["function"] = "function"
    function: Function


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Body):
    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool]


class AllowedChoice(Body):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class TextFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    type: Literal["json_object"]


class NamedSchema(Body):
    name: str = "answer"
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(Body):
    """Not in OpenAI's API."""

    type: Literal["regex"]
    regex: str


Format = Annotated[TextFormat | ObjectFormat | SchemaFormat | RegexFormat, Field(discriminator="type")]


class ChatBody(Sampling):
    """A conversation to answer."""

    model: str | None = Field(None, description="The name of a model here; without one, the first.")
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    n: int | None = Field(None, ge=1, lt=2**31)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Format | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    # What clients send, and what changes nothing on a machine of one's own.
    metadata: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    user: str | None = None
    verbosity: str | None = None

    def toolbox(self) -> Toolbox:
        choice, only, word = self.tool_choice, None, "auto"
        if isinstance(choice, NamedTool):
            word = f"={choice.function.name}"
        elif isinstance(choice, AllowedChoice):
            only, word = [tool.function.name for tool in choice.allowed_tools.tools], choice.allowed_tools.mode
        elif choice is not None:
            word = choice
        functions = [tool.function for tool in self.tools or ()]
        return toolbox(functions, word, only=only, parallel=self.parallel_tool_calls is not False)

    def ask(self, box: Toolbox) -> Ask:
        options = self.sampling()
        options["max_tokens"] = self.max_completion_tokens or self.max_tokens
        if self.logprobs:
            options["logprobs"] = self.top_logprobs or 0
        elif self.top_logprobs:
            raise Problem(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
        if box.told:
            options["tools"] = box.told
        grammars = [grammar for grammar in (options.pop("grammar", None), self._format(), box.grammar) if grammar]
        if len(grammars) > 1:
            raise Problem(400, "only one of response_format, regex and a demanded tool call can be had at a time")
        if grammars:
            options["grammar"] = grammars[0]
        return Ask(
            self.model, [message_for_template(m, i) for i, m in enumerate(self.messages)], options, n=self.n or 1
        )

    def _format(self) -> Grammar | None:
        wanted = self.response_format
        if isinstance(wanted, SchemaFormat):
            schema = wanted.json_schema.json_schema
            return formats.any_object() if schema is None else formats.schema(schema)
        if isinstance(wanted, RegexFormat):
            return Grammar("regex", wanted.regex)
        return formats.any_object() if isinstance(wanted, ObjectFormat) else None


def message_for_template(message: ChatMessage, i: int) -> dict[str, Any]:
    """As templates know it."""
    role = "system" if message.role == "developer" else message.role
    taken: dict[str, Any] = {"role": role, "content": text_of(message.content, f"messages[{i}].content")}
    for name in ("name", "tool_call_id"):
        if getattr(message, name) is not None:
            taken[name] = getattr(message, name)
    if message.tool_calls:
        taken["tool_calls"] = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {"name": call.function.name, "arguments": arguments_of(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return taken


router = APIRouter()


@router.post("/v1/chat/completions")
async def chat(request: Request, body: ChatBody) -> Response:
    """Answer a conversation."""
    asking: Asking = request.app.state.asking
    box = body.toolbox()
    running = await unless_left(request, asking.begin(body.ask(box)))
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
        "logprobs": chosen_logprobs(answer.tokens, model),
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
            logprobs = chosen_logprobs((got,), running.model)
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
