"""`POST /v1/messages`: Anthropic's API."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from edgeinfer.bodies import formats
from edgeinfer.bodies.calls import CallBegun, CallEnded, CallParser, CallPart, Part, ToolCall, said
from edgeinfer.bodies.fields import Body, Function, Number, Toolbox, text_of, toolbox
from edgeinfer.bodies.tools import plain_messages
from edgeinfer.core import Answer, GenerationStats, Token
from edgeinfer.server import problems
from edgeinfer.server.asking import Ask, Asking, Running, timings, usage
from edgeinfer.server.problems import JSON, Problem
from edgeinfer.server.sse import EventStream, event, unless_left

__all__ = ["MessagesBody", "router"]

Blocks = list[dict[str, Any]]


class Turn(Body):
    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class CustomTool(Body):
    name: str = Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_.:-]+$")
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[Any] | None = None


class Choice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    format: SchemaFormat | None = None
    effort: str | None = None


class Conversation(Body):
    """What `/v1/messages` and the counting of its tokens share."""

    model: str | None = None
    messages: list[Turn] = Field(min_length=1)
    system: str | Blocks | None = None
    tools: list[CustomTool] | None = Field(None, max_length=128)
    tool_choice: Choice | None = None
    thinking: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None
    output_config: OutputConfig | None = None

    def toolbox(self) -> Toolbox:
        choice = self.tool_choice or Choice(type="auto")
        functions = [
            Function(name=tool.name, description=tool.description, parameters=tool.input_schema)
            for tool in self.tools or ()
        ]
        if choice.type == "tool" and not choice.name:
            raise Problem(400, "tool_choice of type tool needs a name", param="tool_choice.name")
        word = {"any": "required", "tool": f"={choice.name}"}.get(choice.type, choice.type)
        return toolbox(functions, word, parallel=not choice.disable_parallel_tool_use)

    def history(self) -> list[dict[str, Any]]:
        """The conversation as templates know it."""
        found = [{"role": "system", "content": text_of(self.system, "system")}] if self.system else []
        for i, turn in enumerate(self.messages):
            found += _messages(turn, f"messages.{i}.content")
        if found[-1]["role"] == "assistant":
            raise Problem(400, "the last message must be the user's: answers here begin at their beginning")
        return found


def _messages(turn: Turn, where: str) -> Iterator[dict[str, Any]]:
    """A turn, with results of tools as turns of their own before it, as templates want them."""
    if isinstance(turn.content, str):
        yield {"role": turn.role, "content": turn.content}
        return
    texts: Blocks = []
    calls = []
    for block in turn.content:
        kind = block.get("type")
        if kind == "tool_result":
            result = {"role": "tool", "content": text_of(block.get("content"), where)}
            yield {**result, "tool_call_id": str(block.get("tool_use_id"))}
        elif kind == "tool_use" and turn.role == "assistant":
            function = {"name": str(block.get("name")), "arguments": block.get("input") or {}}
            calls.append({"id": str(block.get("id")), "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking"):
            texts.append(block)
    if texts or calls or not turn.content:
        message: dict[str, Any] = {"role": turn.role, "content": text_of(texts, where)}
        yield {**message, "tool_calls": calls} if calls else message


class MessagesBody(Conversation):
    """A conversation to answer."""

    max_tokens: int = Field(ge=1, lt=2**31)
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = Field(None, max_length=16)
    stream: bool | None = None
    temperature: Number | None = Field(None, ge=0, le=100)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    top_p: Number | None = Field(None, ge=0, le=1)
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    container: None = None

    def ask(self, box: Toolbox) -> Ask:
        options: dict[str, Any] = {"max_tokens": self.max_tokens, "stop": self.stop_sequences or []}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        if self.top_k is not None:
            options["top_k"] = self.top_k
        if self.top_p is not None:
            options["top_p"] = max(self.top_p, 1e-6)
        if box.told:
            options["tools"] = box.told
        wanted = self.output_config.format if self.output_config else None
        if wanted and box.grammar:
            raise Problem(400, "only one of output_config.format and a demanded tool call can be had at a time")
        if wanted or box.grammar:
            options["grammar"] = formats.schema(wanted.json_schema) if wanted else box.grammar
        return Ask(self.model, self.history(), options, route="messages")


router = APIRouter()


@router.post("/v1/messages/count_tokens")
async def count(request: Request, body: Conversation) -> Response:
    """How many tokens a conversation has."""
    return await unless_left(request, _counted(request.app.state.asking, body))


async def _counted(asking: Asking, body: Conversation) -> Response:
    history, tools = body.history(), body.toolbox().told
    async with asking.place(body.model, "count_tokens") as model:
        if not model.facts.takes_tools:
            history, tools = plain_messages(history, tools), None
        found = await model.tokenize(history, tools=tools)
        return JSON({"input_tokens": len(found["ids"])})


@router.post("/v1/messages")
async def converse(request: Request, body: MessagesBody) -> Response:
    """Answer a conversation."""
    asking: Asking = request.app.state.asking
    box = body.toolbox()
    running = await unless_left(request, asking.begin(body.ask(box)))
    head = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": running.model.name}
    if body.stream:
        ping = event({"type": "ping"}, "ping")
        return EventStream(_events(running, box, head, body.max_tokens), running.close, ping)
    try:
        answer = (await unless_left(request, running.answers()))[0]
    finally:
        await running.close()
    whole = said(answer.text, box.names)
    content = [_block(part) for part in whole.parts]
    end = _end(answer, body.max_tokens, called=bool(whole.calls), half=whole.half)
    costs = {"usage": _usage(usage([answer])), "timings": timings(answer.stats)}
    return JSON({**head, "content": content, **end, **costs})


def _block(part: str | ToolCall) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "tool_use", "id": _id(part.id), "name": part.name, "input": _input(part.arguments)}


def _id(name: str) -> str:
    return "toolu_" + name.removeprefix("call_")


def _input(arguments: str) -> dict[str, Any]:
    """The arguments, which must be an object here."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}


def _end(answer: Answer, max_tokens: int, *, called: bool, half: bool) -> dict[str, Any]:
    """Why it ended. ``called``: there are calls in it; ``half``: the last of them has no end."""
    reason = "end_turn"
    if called and (not half or answer.finish_reason == "stop"):
        reason = "tool_use"
    elif answer.finish_reason != "stop":
        full = answer.finish_reason == "length" and answer.stats.n_generated < max_tokens
        reason = "model_context_window_exceeded" if full else "max_tokens"
    elif answer.stop is not None:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": answer.stop if reason == "stop_sequence" else None}


def _usage(stats: GenerationStats) -> dict[str, Any]:
    return {
        "input_tokens": stats.n_prompt - stats.n_reused,
        "cache_read_input_tokens": stats.n_reused,
        "cache_creation_input_tokens": 0,
        "output_tokens": stats.n_generated,
    }


# ---- streams


async def _events(running: Running, box: Toolbox, head: dict[str, Any], most: int) -> AsyncGenerator[bytes, None]:
    def told(kind: str, **fields: Any) -> bytes:
        return event({"type": kind, **fields}, kind)

    blocks = _Blocks()
    parser = CallParser(box.names)
    try:
        empty: dict[str, Any] = {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(GenerationStats()),
        }
        yield told("message_start", message={**head, **empty})
        async for _, got in running.events():
            if isinstance(got, Token):
                parts: list[Part] = parser.feed(got.text) if box.names else [got.text]
            else:
                parts = parser.flush() if box.names else []
            for part in parts:
                for kind, fields in blocks.add(part):
                    yield told(kind, **fields)
            if isinstance(got, Answer):
                for kind, fields in blocks.close():
                    yield told(kind, **fields)
                end = _end(got, most, called=blocks.called, half=parser.half)
                yield told("message_delta", delta=end, usage=_usage(usage([got])), timings=timings(got.stats))
        yield told("message_stop")
    except Exception as error:
        yield event(problems.told(error, "/v1/messages"), "error")


class _Blocks:
    """The blocks of an answer's content as they come. ``called``: there are calls among them."""

    def __init__(self) -> None:
        self.called = False
        self._index = -1
        self._open = False
        self._arguments: str | None = None  # of a call whose arguments are no object, until all of them are there

    def add(self, part: Part) -> list[tuple[str, dict[str, Any]]]:
        if isinstance(part, CallBegun):
            self.called, self._arguments = True, ""
            return self._start({"type": "tool_use", "id": _id(part.id), "name": part.name, "input": {}})
        if isinstance(part, CallPart):
            return self._json(part.text)
        if isinstance(part, CallEnded):
            rest = json.dumps(_input(self._arguments), ensure_ascii=False) if self._arguments else ""
            self._arguments = None
            return [*self._json(rest), *self.close()]
        if not part:
            return []
        events = [] if self._open else self._start({"type": "text", "text": ""})
        return [*events, self._delta({"type": "text_delta", "text": part})]

    def _json(self, text: str) -> list[tuple[str, dict[str, Any]]]:
        """Arguments as they come where they are an object, which they must be here; else all at once, in one."""
        if self._arguments is not None and (self._arguments or not text.startswith("{")):
            self._arguments += text
            return []
        self._arguments = None
        return [self._delta({"type": "input_json_delta", "partial_json": text})] if text else []

    def close(self) -> list[tuple[str, dict[str, Any]]]:
        if not self._open:
            return []
        self._open = False
        return [("content_block_stop", {"index": self._index})]

    def _start(self, block: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        events = self.close()
        self._index += 1
        self._open = True
        return [*events, ("content_block_start", {"index": self._index, "content_block": block})]

    def _delta(self, delta: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "content_block_delta", {"index": self._index, "delta": delta}
