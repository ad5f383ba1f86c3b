"""Tools in a conversation whose template knows none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgeinfer.bodies.formats import CALL_BEGIN, CALL_END

__all__ = ["arguments_of", "plain_messages"]


def arguments_of(text: str) -> Any:
    """The arguments of an earlier call for a template, which writes them as JSON itself; text that is none stays
    text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


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
