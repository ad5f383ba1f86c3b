"""`POST /v1/responses`: OpenAI's newer API, where a response can follow on another by its id. What was said is kept in
memory only, and only the latest of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from edgeinfer.core import Answer, Grammar, Token
from edgeinfer.server import formats
from edgeinfer.server.api.chat import ObjectFormat, TextFormat
from edgeinfer.server.api.fields import Body, Function, Sampling, StreamOptions, Toolbox, arguments_of, text_of, toolbox
from edgeinfer.server.api.kept import Kept
from edgeinfer.server.api.output import Output
from edgeinfer.server.asking import Ask, Asking, Running, timings, usage
from edgeinfer.server.problems import JSON, Problem, told
from edgeinfer.server.sse import EventStream, event, unless_left

__all__ = ["ResponseBody", "router"]


class Item(Body):
    """A part of the input. Items of earlier outputs come back with more than is needed here."""

    model_config = ConfigDict(extra="ignore")


class MessageItem(Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]


class CallItem(Item):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class CallOutputItem(Item):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[dict[str, Any]]


class ReasoningItem(Item):
    """Of another model; models here do not take it back."""

    type: Literal["reasoning"]


AnyItem = CallItem | CallOutputItem | ReasoningItem | MessageItem


class FunctionTool(Function):
    type: Literal["function"]


class FunctionChoice(Body):
    type: Literal["function"]
    name: str


class AllowedChoice(Body):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: list[FunctionChoice]


class SchemaFormat(Body):
    type: Literal["json_schema"]
    name: str = "answer"
    json_schema: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(Body):
    format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: str | None = None


class ResponseBody(Sampling):
    """Something to respond to."""

    model: str | None = None
    input: str | Annotated[list[AnyItem], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    max_output_tokens: int | None = Field(None, ge=1, lt=2**31)
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncation: Literal["auto", "disabled"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    reasoning: dict[str, Any] | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    user: str | None = None

    def toolbox(self) -> Toolbox:
        choice, only, word = self.tool_choice, None, "auto"
        if isinstance(choice, FunctionChoice):
            word = f"={choice.name}"
        elif isinstance(choice, AllowedChoice):
            only, word = [tool.name for tool in choice.tools], choice.mode
        elif choice is not None:
            word = choice
        return toolbox(self.tools, word, only=only, parallel=self.parallel_tool_calls is not False)

    def options(self, box: Toolbox) -> dict[str, Any]:
        options = {**self.sampling(), "max_tokens": self.max_output_tokens}
        if "message.output_text.logprobs" in (self.include or ()) or self.top_logprobs:
            options["logprobs"] = self.top_logprobs or 0
        if self.truncation == "auto":
            options["on_overflow"] = "drop-oldest"
        if box.told:
            options["tools"] = box.told
        grammars = [each for each in (options.pop("grammar", None), self._format(), box.grammar) if each]
        if len(grammars) > 1:
            raise Problem(400, "only one of text.format, regex and a demanded tool call can be had at a time")
        if grammars:
            options["grammar"] = grammars[0]
        return options

    def _format(self) -> Grammar | None:
        wanted = self.text.format if self.text else None
        if isinstance(wanted, SchemaFormat):
            return formats.schema(wanted.json_schema)
        return formats.any_object() if isinstance(wanted, ObjectFormat) else None

    def messages(self) -> list[dict[str, Any]]:
        """The input as templates know it. Calls that follow each other are one turn."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        found: list[dict[str, Any]] = []
        for i, item in enumerate(self.input):
            if isinstance(item, MessageItem):
                role = "system" if item.role == "developer" else item.role
                found.append({"role": role, "content": text_of(item.content, f"input[{i}].content")})
            elif isinstance(item, CallItem):
                function = {"name": item.name, "arguments": arguments_of(item.arguments)}
                call = {"id": item.call_id, "type": "function", "function": function}
                if not found or found[-1]["role"] != "assistant":
                    found.append({"role": "assistant", "content": ""})
                found[-1].setdefault("tool_calls", []).append(call)
            elif isinstance(item, CallOutputItem):
                output = text_of(item.output, f"input[{i}].output")
                found.append({"role": "tool", "content": output, "tool_call_id": item.call_id})
        return found

    def described(self) -> dict[str, Any]:
        """What a response repeats of what was asked."""
        choice = self.tool_choice
        wanted = self.text.format if self.text else None
        tools = [
            {"description": None, "parameters": None, "strict": False, **_given(tool)} for tool in self.tools or ()
        ]
        return {
            "object": "response",
            "background": False,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": self.store is not False,
            "temperature": self.temperature,
            "text": {"format": _given(wanted) if wanted else {"type": "text"}},
            "tool_choice": choice if isinstance(choice, str) else _given(choice) if choice else "auto",
            "tools": tools,
            "top_logprobs": self.top_logprobs or 0,
            "top_p": self.top_p,
            "truncation": self.truncation or "disabled",
            "user": self.user,
        }


def _given(part: Body) -> dict[str, Any]:
    return part.model_dump(by_alias=True, exclude_none=True)


router = APIRouter()


@router.post("/v1/responses")
async def respond(request: Request, body: ResponseBody) -> Response:
    """Respond to a text or to items."""
    asking: Asking = request.app.state.asking
    kept: Kept = request.app.state.kept
    box, history = body.toolbox(), body.messages()
    if body.previous_response_id is not None:
        history = [*kept.history(body.previous_response_id), *history]
    if not history:
        raise Problem(400, "the input holds nothing to respond to", param="input")
    told = [{"role": "system", "content": body.instructions}] if body.instructions else []
    ask = Ask(body.model, [*told, *history], body.options(box), route="responses")
    running = await unless_left(request, asking.begin(ask))
    output = Output(running.model, box.names)
    head = {"id": f"resp_{uuid.uuid4().hex}", "created_at": int(time.time()), "model": running.model.name}
    head |= body.described()

    def ended(answer: Answer) -> dict[str, Any]:
        found = {**head, **_end(answer), "output": output.items}
        if body.store is not False:
            kept.keep(found, [*history, output.message()])
        return {**found, "timings": timings(answer.stats)}

    if body.stream:
        return EventStream(_events(running, output, head, ended), running.close)
    try:
        answers = await unless_left(request, running.answers())
    finally:
        await running.close()
    for token in answers[0].tokens:
        output.feed(token)
    output.end(cut=answers[0].finish_reason != "stop")
    return JSON(ended(answers[0]))


def _end(answer: Answer) -> dict[str, Any]:
    stats = usage([answer])
    cut = answer.finish_reason != "stop"
    return {
        "status": "incomplete" if cut else "completed",
        "completed_at": int(time.time()),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": {
            "input_tokens": stats.n_prompt,
            "input_tokens_details": {"cached_tokens": stats.n_reused, "cache_write_tokens": 0},
            "output_tokens": stats.n_generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": stats.n_prompt + stats.n_generated,
        },
    }


async def _events(running: Running, output: Output, head: dict[str, Any], ended: Any) -> AsyncGenerator[bytes, None]:
    """The response as it comes, each event with its number."""
    number = 0

    def numbered(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number - 1, **fields}, kind)

    empty: dict[str, Any] = {"error": None, "incomplete_details": None, "output": [], "usage": None}
    begun = {**head, **empty, "status": "in_progress"}
    try:
        yield numbered("response.created", response=begun)
        yield numbered("response.in_progress", response=begun)
        async for _, got in running.events():
            cut = isinstance(got, Answer) and got.finish_reason != "stop"
            for kind, fields in output.feed(got) if isinstance(got, Token) else output.end(cut=cut):
                yield numbered(kind, **fields)
            if isinstance(got, Answer):
                whole = ended(got)
                yield numbered(f"response.{whole['status']}", response=whole)
    except Exception as error:
        message = told(error, "/v1/responses")["error"]["message"]
        failed = {**begun, "status": "failed", "error": {"code": "server_error", "message": message}}
        yield numbered("response.failed", response=failed)


@router.get("/v1/responses/{name}")
async def retrieve(request: Request, name: str) -> Response:
    """A response from before."""
    kept: Kept = request.app.state.kept
    return JSON(kept.response(name))


@router.delete("/v1/responses/{name}")
async def delete(request: Request, name: str) -> Response:
    """Forget a response."""
    kept: Kept = request.app.state.kept
    kept.forget(name)
    return JSON({"id": name, "object": "response", "deleted": True})
