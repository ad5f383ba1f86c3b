"""Something to respond to, as OpenAI's newer API writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from edgeinfer.bodies import formats
from edgeinfer.bodies.chat import ObjectFormat, TextFormat
from edgeinfer.bodies.errors import BodyError
from edgeinfer.bodies.fields import Body, Function, Sampling, StreamOptions, Toolbox, text_of, toolbox
from edgeinfer.bodies.tools import arguments_of
from edgeinfer.core import Answer, Grammar

__all__ = ["ResponseBody", "ended_part"]


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
            raise BodyError("only one of text.format, regex and a demanded tool call can be had at a time")
        if grammars:
            options["grammar"] = grammars[0]
        return options

    def _format(self) -> Grammar | None:
        wanted = self.text.format if self.text else None
        if isinstance(wanted, SchemaFormat):
            return formats.schema(wanted.json_schema)
        return formats.any_object() if isinstance(wanted, ObjectFormat) else None

    def conversation(self, history: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Instructions, the ``history`` that it follows on, and the input. Raises `BodyError` where that is nothing."""
        messages = [*history, *self.messages()]
        if not messages:
            raise BodyError("the input holds nothing to respond to", param="input")
        return [*([{"role": "system", "content": self.instructions}] if self.instructions else []), *messages]

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


def ended_part(answer: Answer, completed_at: int) -> dict[str, Any]:
    """What a response says once its answer has ended."""
    stats, cut = answer.stats, answer.finish_reason != "stop"
    return {
        "status": "incomplete" if cut else "completed",
        "completed_at": completed_at,
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
