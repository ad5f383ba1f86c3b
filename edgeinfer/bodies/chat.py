"""A conversation to answer, as OpenAI's chat API writes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from edgeinfer.bodies import formats
from edgeinfer.bodies.errors import BodyError
from edgeinfer.bodies.fields import Body, Function, Sampling, StreamOptions, Toolbox, text_of, toolbox
from edgeinfer.bodies.tools import arguments_of
from edgeinfer.core import Grammar

__all__ = ["ChatBody", "ChatMessage", "ObjectFormat", "TextFormat", "Tool", "ToolFields", "message_for_template"]


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


class ToolFields(Body):
    """What may be called in an answer, and whether something must be."""

    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None

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


class ChatBody(Sampling, ToolFields):
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

    def options(self, box: Toolbox) -> dict[str, Any]:
        """Options for `LLM.stream`: what is given, and what ``box`` demands. Raises `BodyError` for what does not go
        together."""
        options = self.sampling()
        options["max_tokens"] = self.max_completion_tokens or self.max_tokens
        if self.logprobs:
            options["logprobs"] = self.top_logprobs or 0
        elif self.top_logprobs:
            raise BodyError("top_logprobs needs logprobs to be true", param="top_logprobs")
        if box.told:
            options["tools"] = box.told
        grammars = [grammar for grammar in (options.pop("grammar", None), self._format(), box.grammar) if grammar]
        if len(grammars) > 1:
            raise BodyError("only one of response_format, regex and a demanded tool call can be had at a time")
        if grammars:
            options["grammar"] = grammars[0]
        return options

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as templates know them."""
        return [message_for_template(message, i) for i, message in enumerate(self.messages)]

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
