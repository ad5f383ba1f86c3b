"""Tools in a conversation whose template knows none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgeinfer.bodies.formats import CALL_BEGIN, CALL_END

__all__ = ["arguments_of", "for_template", "plain_messages"]


def arguments_of(text: str) -> Any:
    """The arguments of an earlier call for a template, which writes them as JSON itself; text that is none stays
    text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def for_template(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, *, takes_tools: bool
) -> tuple[list[Any], Sequence[Any] | None]:
    """Messages of OpenAI's API, and ``tools``, as a template knows them: ``developer`` is another word for ``system``,
    no content is an empty one, arguments of earlier calls are values, and where it takes no tools, all of that is
    text."""
    taken = [_taken(message) for message in messages]
    if takes_tools or not (tools or any(message["role"] == "tool" or "tool_calls" in message for message in taken)):
        return taken, tools
    return plain_messages(taken, tools), None


def _taken(message: Mapping[str, Any]) -> Mapping[str, Any]:
    calls = message.get("tool_calls")
    if message["role"] != "developer" and calls is None and message.get("content") is not None:
        return message
    taken = {name: value for name, value in message.items() if name != "tool_calls"}
    if taken.get("content") is None:
        taken["content"] = ""
    if message["role"] == "developer":
        taken["role"] = "system"
    if calls:
        taken["tool_calls"] = [{**call, "function": _function(call["function"])} for call in calls]
    return taken


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function["arguments"]
    return {**function, "arguments": arguments_of(arguments) if isinstance(arguments, str) else arguments}


_HEAD = "You may call functions to help with the user's request. Their signatures, one a line:"
_HOW = (
    "To call one, answer with nothing but its name and arguments as JSON between tags:\n"
    f'{CALL_BEGIN}\n{{"name": "FUNCTION", "arguments": {{"ARGUMENT": "VALUE"}}}}\n{CALL_END}'
)


def plain_messages(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> list[dict[str, Any]]:
    """The conversation for a template that knows neither tools nor calls: they are told, and written, as text."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            if plain and plain[-1]["role"] == "user" and plain[-1]["content"].startswith("<tool_response>"):
                plain[-1]["content"] += f"\n{content}"
                continue
            role = "user"
        written = [_written(call) for call in message.get("tool_calls") or ()]
        plain.append({"role": role, "content": "\n".join(filter(None, [content, *written]))})
    if tools:
        told = "\n".join([_HEAD, *(json.dumps(tool, ensure_ascii=False) for tool in tools), "", _HOW])
        if plain and plain[0]["role"] == "system":
            plain[0]["content"] += f"\n\n{told}"
        else:
            plain.insert(0, {"role": "system", "content": told})
    return plain


def _written(call: Mapping[str, Any]) -> str:
    function = call["function"]
    body = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    return f"{CALL_BEGIN}\n{body}\n{CALL_END}"
