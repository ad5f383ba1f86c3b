"""Tools for templates that know none, and calls that are demanded."""

from __future__ import annotations

from typing import Any

from serving import CALL, PARAMETERS

from edgeinfer.bodies import formats
from edgeinfer.bodies.tools import plain_messages

TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": PARAMETERS}}]


def test_several_kinds_of_call_by_grammar() -> None:
    tools: list[dict[str, Any]] = [{"name": "a", "parameters": PARAMETERS}, {"name": "b", "parameters": None}]
    grammar = formats.calls(tools, parallel=True)
    assert grammar.kind == "lark"
    assert "#/anyOf/0/properties/arguments/$defs/n" in grammar.source


def test_plain_messages() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
        {"role": "tool", "content": "4", "tool_call_id": "2"},
    ]
    plain = plain_messages(messages, TOOLS)
    assert [message["role"] for message in plain] == ["system", "user", "assistant", "user"]
    assert plain[0]["content"].startswith("be kind\n\n")
    assert '"name": "add"' in plain[0]["content"]
    assert plain[2]["content"] == CALL
    assert plain[3]["content"] == "<tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response>"
    assert plain_messages(messages[1:2], None) == messages[1:2]
    assert messages[0]["content"] == "be kind"
