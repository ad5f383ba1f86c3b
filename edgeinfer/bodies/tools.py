"""Tool calls in the text of an answer, and tools in a conversation whose template knows none.

Models of our catalogue write a call as ``<tool_call>`` and a JSON object with ``name`` and ``arguments``, as Qwen's
template asks them to; Qwen2.5-Coder often leaves the tags out and writes the object alone or in a code fence. Knows no
HTTP."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeinfer.bodies.formats import CALL_BEGIN, CALL_END

__all__ = ["CallParser", "ToolCall", "arguments_of", "plain_messages"]

_FENCE = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)
_MAY_BE_CALL = re.compile(r"\s*(?:\{|`{1,3}(?:\s|$)|```(?:j|js|jso|json)?(?:$|[\s{])|$)")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function to call: ``arguments`` is JSON text."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: "call_" + uuid.uuid4().hex[:24])


class CallParser:
    """Text of an answer in, plain text and tool calls out, in order. ``names`` are the functions that may be called; a
    call of anything else is text. One answer each."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._held = ""
        self._begun = False  # something has been given out: what follows is no call without tags any more
        self._after_call = False  # white space between calls belongs to nobody

    def feed(self, text: str) -> list[str | ToolCall]:
        """What this text makes certain. Text that may still become a call is held back."""
        self._held += text
        found: list[str | ToolCall] = []
        while self._held:
            if self._after_call:
                self._held = self._held.lstrip()
                self._after_call = not self._held
                continue
            at = self._held.find(CALL_BEGIN)
            if at < 0:
                self._give(found, self._n_certain())
                break
            self._give(found, at)
            end = self._held.find(CALL_END)
            if end < 0:
                break
            inside, self._held = self._held[len(CALL_BEGIN) : end], self._held[end + len(CALL_END) :]
            self._begun = self._after_call = True
            found.append(self._call(inside) or f"{CALL_BEGIN}{inside}{CALL_END}")
        return found

    def flush(self) -> list[str | ToolCall]:
        """What was held back, now that nothing can follow."""
        held, self._held = self._held, ""
        if held.startswith(CALL_BEGIN):  # a call that broke off, or whose end is missing
            call = self._call(held[len(CALL_BEGIN) :])
            return [call or held]
        if not self._begun:
            fenced = _FENCE.fullmatch(held.strip())
            call = self._call(fenced[1] if fenced else held)
            if call:
                return [call]
        return [held] if held else []

    def _give(self, found: list[str | ToolCall], n: int) -> None:
        text, self._held = self._held[:n], self._held[n:]
        if text and (self._begun or text.strip() or not self._held.startswith(CALL_BEGIN)):
            found.append(text)
            self._begun = self._begun or bool(text.strip())

    def _n_certain(self) -> int:
        """How much of what is held can be no part of a call."""
        if not self._begun and _MAY_BE_CALL.match(self._held):
            return 0
        for n in range(min(len(CALL_BEGIN) - 1, len(self._held)), 0, -1):
            if self._held.endswith(CALL_BEGIN[:n]):
                before = self._held[:-n]
                return len(before) if self._begun or before.strip() else 0
        return len(self._held)

    def _call(self, text: str) -> ToolCall | None:
        text = text.strip()
        for candidate in (text, text[1:-1] if text.startswith("{{") and text.endswith("}}") else None):
            try:
                value = json.loads(candidate or "")
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict) and value.get("name") in self._names:
                arguments = value.get("arguments", value.get("parameters", {}))
                if isinstance(arguments, (dict, list)):
                    return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False))
                if isinstance(arguments, str):
                    return ToolCall(value["name"], arguments)
        return None


def arguments_of(text: str) -> Any:
    """The arguments of an earlier call for a template, which writes them as JSON itself; text that is none stays
    text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# ---- for templates that know no tools

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
