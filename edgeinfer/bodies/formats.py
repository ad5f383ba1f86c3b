"""What an answer must look like, from what the APIs call it: JSON schema, JSON object, regular expression, tool call.

Knows schemas and grammars as text; nothing of HTTP or models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgeinfer.core import Grammar
from edgeinfer.sampling import json_schema

__all__ = ["CALL_BEGIN", "CALL_END", "any_object", "calls", "schema"]

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"
_MOST_CALLS = 8


def schema(value: Mapping[str, Any]) -> Grammar:
    """JSON that fits a schema."""
    return Grammar("json_schema", json.dumps(value))


def any_object() -> Grammar:
    """JSON that is an object."""
    return schema({"type": "object"})


def calls(tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> Grammar:
    """One call of one of these functions (``name``, ``parameters``), or a few where ``parallel``, written as the
    templates of our catalogue write them. Raises `GrammarError` for a schema of parameters that is none."""
    kinds = [_call_schema(tool, f"/anyOf/{i}/properties/arguments") for i, tool in enumerate(tools)]
    call = json_schema.to_lark(json.dumps({"anyOf": kinds})).replace("start:", "json:", 1)
    more = f' ("\\n" call){{0,{_MOST_CALLS - 1}}}' if parallel else ""
    return Grammar("lark", f'start: call{more}\ncall: "{CALL_BEGIN}\\n" json "\\n{CALL_END}"\n{call}')


def _call_schema(tool: Mapping[str, Any], place: str) -> dict[str, Any]:
    parameters = tool.get("parameters") or {"type": "object", "properties": {}}
    return {
        "type": "object",
        "properties": {"name": {"const": tool["name"]}, "arguments": _moved(parameters, place)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(value: Any, place: str) -> Any:
    """A schema that has become part of another: what it refers to has moved with it."""
    if isinstance(value, Mapping):
        return {
            key: f"#{place}{item[1:]}" if key == "$ref" and isinstance(item, str) and item.startswith("#") else item
            for key, item in ((key, _moved(item, place)) for key, item in value.items())
        }
    if isinstance(value, (list, tuple)):
        return [_moved(item, place) for item in value]
    return value
