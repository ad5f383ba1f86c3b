"""Tool calls: found in text however it is cut, demanded by grammar, told to templates that know none."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from serving import CALL, PARAMETERS, events, opened, spec, user
from starlette.testclient import TestClient

from edgeinfer.bodies import formats
from edgeinfer.bodies.tools import CallParser, ToolCall, plain_messages

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": PARAMETERS}}]


def parsed(pieces: list[str], names: tuple[str, ...] = ("add",)) -> list[Any]:
    parser = CallParser(names)
    parts = [part for piece in pieces for part in parser.feed(piece)] + parser.flush()
    found: list[Any] = []
    for part in parts:
        if isinstance(part, ToolCall):
            found.append((part.name, json.loads(part.arguments)))
        elif found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


ONE = ("add", {"a": 1, "b": 2})
BARE = '{"name": "add", "arguments": {"a": 1, "b": 2}}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", ["plain text"]),
        (CALL, [ONE]),
        (f"\n{CALL}\n{CALL}\n", [ONE, ONE]),
        (f"I add: {CALL}", ["I add: ", ONE]),
        (f"{CALL} and so on", [ONE, "and so on"]),
        (CALL.replace('{"name"', '{{"name"').replace("}}\n", "}}}\n"), [ONE]),
        (CALL.removesuffix("\n</tool_call>"), [ONE]),
        (BARE, [ONE]),
        (f"```json\n{BARE}\n```", [ONE]),
        (f"```\n{BARE}\n```", [ONE]),
        ("```python\nx = {}\n```", ["```python\nx = {}\n```"]),
        ('{"name": "other", "arguments": {}}', ['{"name": "other", "arguments": {}}']),
        ("<tool_call>\nnonsense\n</tool_call>", ["<tool_call>\nnonsense\n</tool_call>"]),
        ("a < b and <tool", ["a < b and <tool"]),
        ("<tool_call>", ["<tool_call>"]),
        (f"no call: {BARE}", [f"no call: {BARE}"]),
        ('<tool_call>{"name": "add", "parameters": {"a": 1, "b": 2}}</tool_call>', [ONE]),
        ('{"a": 1}', ['{"a": 1}']),
        ("", []),
    ],
)
def test_calls_in_text(text: str, expected: list[Any]) -> None:
    assert parsed([text]) == expected
    assert parsed(list(text)) == expected


@given(st.text(max_size=30), st.lists(st.integers(1, 9), max_size=60))
def test_how_text_is_cut_makes_no_difference(before: str, cuts: list[int]) -> None:
    text = f"{before}{CALL}\n{CALL} end <tool_ca"
    ends = [0, *itertools.accumulate(cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(sorted(min(end, len(text)) for end in ends))]
    assert parsed(pieces) == parsed([text])


def test_text_that_can_be_no_call_is_not_held_back() -> None:
    parser = CallParser(["add"])
    assert parser.feed("The sum ") == ["The sum "]
    assert parser.feed("is < 5") == ["is < 5"]
    assert CallParser(["add"]).feed("```python\n") == ["```python\n"]


# ---- over HTTP


def test_a_call_of_its_own_accord(client: TestClient) -> None:
    found = client.post(CHAT, json=user(f"say Well. {CALL}", tools=TOOLS)).json()
    ChatCompletion.model_validate(found, strict=True)
    choice = found["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Well. "
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"a": 1, "b": 2}


def test_the_same_streamed(client: TestClient) -> None:
    response = client.post(CHAT, json=user(f"say Well. {CALL}\n{CALL}", tools=TOOLS, stream=True))
    chunks = [ChatCompletionChunk.model_validate(data, strict=True) for _, data in events(response.text)[:-1]]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert text == "Well. "
    assert [call.index for call in calls] == [0, 1]
    assert len({call.id for call in calls}) == 2
    assert all(call.function and json.loads(call.function.arguments or "") == {"a": 1, "b": 2} for call in calls)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_without_tools_a_call_is_text(client: TestClient) -> None:
    for extra in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        found = client.post(CHAT, json=user(f"say {CALL}", **extra)).json()
        assert found["choices"][0]["message"]["content"] == CALL
        assert "tool_calls" not in found["choices"][0]["message"]


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "function": {"name": "add"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]},
        },
    ],
)
def test_a_call_that_is_demanded(client: TestClient, choice: Any) -> None:
    body = user("say never", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    found = client.post(CHAT, json=body).json()
    (call,) = found["choices"][0]["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert call["function"]["name"] == "add"
    assert set(arguments) == {"a", "b"}
    assert all(0 <= number <= 9 for number in arguments.values())


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": TOOLS * 2},
        {"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"tools": [{"type": "web_search"}]},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 5}}}],
            "tool_choice": "required",
        },
    ],
)
def test_tools_that_cannot_be(client: TestClient, extra: dict[str, Any]) -> None:
    response = client.post(CHAT, json=user("x", **extra))
    assert response.status_code == 400, response.text


def test_several_kinds_of_call_by_grammar() -> None:
    tools: list[dict[str, Any]] = [{"name": "a", "parameters": PARAMETERS}, {"name": "b", "parameters": None}]
    grammar = formats.calls(tools, parallel=True)
    assert grammar.kind == "lark"
    assert "#/anyOf/0/properties/arguments/$defs/n" in grammar.source


# ---- templates that know no tools


def test_a_template_without_tools_is_told_as_text() -> None:
    with opened(spec(tools=False)) as client:
        count = client.post("/tokenize", json={"messages": user("x")["messages"]}).json()["count"]
        told = client.post("/tokenize", json={"messages": user("x")["messages"], "tools": TOOLS}).json()["count"]
        assert told > count + 200
        found = client.post(CHAT, json=user(f"say {CALL}", tools=TOOLS)).json()
        assert found["choices"][0]["finish_reason"] == "tool_calls"


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
