"""Tool calls over HTTP, also by the clients of OpenAI and Anthropic: found in answers, streamed as they are written,
demanded by grammar, told to templates that know none."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from serving import CALL, PARAMETERS, URL, events, opened, spec, user
from starlette.testclient import TestClient

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": PARAMETERS}}]


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
    for i in (0, 1):
        first, *rest = [call for call in calls if call.index == i]
        assert first.function
        assert (first.type, first.function.name, first.function.arguments) == ("function", "add", "")
        assert all((call.id, call.type, call.function and call.function.name) == (None, None, None) for call in rest)
        assert len(rest) > 5
        arguments = "".join((call.function and call.function.arguments) or "" for call in rest)
        assert json.loads(arguments) == {"a": 1, "b": 2}
    assert len({call.id for call in calls if call.id}) == 2
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_stream_that_is_cut_within_a_call(client: TestClient) -> None:
    body = user(f"say {CALL}", tools=TOOLS, max_tokens=len(CALL) - 15)
    whole = client.post(CHAT, json=body).json()["choices"][0]
    chunks = [data["choices"][0] for _, data in events(client.post(CHAT, json={**body, "stream": True}).text)[:-1]]
    calls = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
    told = "".join(call["function"]["arguments"] for call in calls)
    assert told == whole["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1, "b": 2'
    assert chunks[-1]["finish_reason"] == whole["finish_reason"] == "length"


STRICT: Any = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "choice", "n_calls"),
    [
        (f"say {CALL}", "auto", 1),
        (f"say Well. {CALL}\n{CALL}", "auto", 2),
        (f"say {CALL[12:-13]}", "auto", 1),
        (f"say {CALL}", "none", 0),
        ("say never", "required", None),
        ("say never", {"type": "function", "function": {"name": "add"}}, 1),
    ],
)
def test_openai_s_helper_for_streams(client: TestClient, text: str, choice: Any, n_calls: int | None) -> None:
    options: Any = {"model": "scripted", "messages": user(text)["messages"], "temperature": 0, "tools": STRICT}
    ask = openai.OpenAI(base_url=f"{URL}/v1", api_key="x", http_client=client, max_retries=0)
    whole = ask.chat.completions.create(**options, tool_choice=choice).choices[0]
    told: dict[int, str] = {}
    done = []
    with ask.chat.completions.stream(**options, tool_choice=choice) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                told[event.index] = told.get(event.index, "") + event.arguments_delta
                assert event.arguments == told[event.index]
            elif event.type == "tool_calls.function.arguments.done":
                done.append((event.name, event.arguments))
        final = stream.get_final_completion().choices[0]
    calls: Any = final.message.tool_calls or []
    expected: Any = whole.message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == done
    assert [(call.function.name, call.function.arguments) for call in expected] == done
    assert list(told.values()) == [arguments for _, arguments in done]
    assert n_calls is None or len(calls) == n_calls
    assert final.finish_reason == whole.finish_reason == ("tool_calls" if done else "stop")
    assert (final.message.content or "") == (whole.message.content or "")
    if "Well" in text:
        assert [call.function.parsed_arguments for call in calls] == [{"a": 1, "b": 2}] * 2


def test_the_other_helpers_for_streams(client: TestClient) -> None:
    text = f"say {CALL}\n{CALL}"
    function: Any = {"type": "function", **STRICT[0]["function"]}
    ask = openai.OpenAI(base_url=f"{URL}/v1", api_key="x", http_client=client, max_retries=0)
    told = ""
    with ask.responses.stream(model="scripted", input=text, tools=[function], temperature=0) as stream:
        for event in stream:
            if event.type == "response.function_call_arguments.delta":
                told += event.delta
                assert told.endswith(event.snapshot)
        output: Any = stream.get_final_response().output
    assert [json.loads(call.arguments) for call in output] == [{"a": 1, "b": 2}] * 2
    assert told == "".join(call.arguments for call in output)
    tool: Any = {"name": "add", "input_schema": PARAMETERS}
    turns: Any = [{"role": "user", "content": text}]
    claude = anthropic.Anthropic(base_url=URL, api_key="x", http_client=client, max_retries=0)
    seen = []
    with claude.messages.stream(model="scripted", max_tokens=300, messages=turns, tools=[tool]) as messages:
        for part in messages:
            if part.type == "input_json":
                seen.append(part.snapshot)
        content: Any = messages.get_final_message().content
    assert [block.input for block in content] == [{"a": 1, "b": 2}] * 2
    assert {"a": 1} in seen


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


# ---- templates that know no tools


def test_a_template_without_tools_is_told_as_text() -> None:
    with opened(spec(tools=False)) as client:
        count = client.post("/tokenize", json={"messages": user("x")["messages"]}).json()["count"]
        told = client.post("/tokenize", json={"messages": user("x")["messages"], "tools": TOOLS}).json()["count"]
        assert told > count + 200
        found = client.post(CHAT, json=user(f"say {CALL}", tools=TOOLS)).json()
        assert found["choices"][0]["finish_reason"] == "tool_calls"
