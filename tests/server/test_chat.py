"""OpenAI's chat API over a scripted model, held against the types of its own client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from serving import events, opened, spec, user
from starlette.testclient import TestClient

CHAT = "/v1/chat/completions"


def ask(client: TestClient, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    response = client.post(CHAT, json=body)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    if status == 200:
        ChatCompletion.model_validate(found, strict=True)
    return found


def chunks(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = client.post(CHAT, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response.text)
    assert found[-1] == (None, "[DONE]")
    for _, chunk in found[:-1]:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    return [chunk for _, chunk in found[:-1]]


def text_of(found: list[dict[str, Any]], i: int = 0) -> str:
    return "".join(
        choice["delta"].get("content") or "" for chunk in found for choice in chunk["choices"] if choice["index"] == i
    )


def test_an_answer(client: TestClient) -> None:
    found = ask(client, user("Grüße"))
    assert found["choices"][0]["message"]["content"] == "You said: Grüße"
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["model"] == "scripted"
    usage = found["usage"]
    assert usage["completion_tokens"] == len("You said: Grüße".encode())
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_same_streamed(client: TestClient) -> None:
    found = chunks(client, user("Grüße"))
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(found) == "You said: Grüße"
    assert [chunk["choices"][0]["finish_reason"] for chunk in found][-1] == "stop"
    assert "usage" not in found[-1]
    assert found[-1]["timings"]["predicted_n"] == len("You said: Grüße".encode())


def test_usage_of_a_stream_comes_last(client: TestClient) -> None:
    found = chunks(client, user("hi", stream_options={"include_usage": True}))
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["completion_tokens"] == len("You said: hi")
    assert all(chunk["usage"] is None for chunk in found[:-1])


def test_the_cache_is_told(client: TestClient) -> None:
    first = ask(client, user("what will be asked twice"))
    second = ask(client, user("what will be asked twice"))
    n_prompt = second["usage"]["prompt_tokens"]
    assert first["usage"]["prompt_tokens"] == n_prompt
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == n_prompt - 1
    assert second["timings"]["cache_n"] == n_prompt - 1


def test_limits_of_length_and_stops(client: TestClient) -> None:
    cut = ask(client, user("say abcdef", max_tokens=3))
    assert (cut["choices"][0]["message"]["content"], cut["choices"][0]["finish_reason"]) == ("abc", "length")
    assert ask(client, user("say abcdef", max_completion_tokens=2))["choices"][0]["message"]["content"] == "ab"
    stopped = ask(client, user("say abcdef", stop=["ef", "cd"]))
    assert (stopped["choices"][0]["message"]["content"], stopped["choices"][0]["finish_reason"]) == ("ab", "stop")
    assert text_of(chunks(client, user("say abcdef", stop="cd"))) == "ab"


def test_several_answers(client: TestClient) -> None:
    found = ask(client, user("hi", n=3))
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in found["choices"]} == {"You said: hi"}
    assert found["usage"]["completion_tokens"] == 3 * len("You said: hi")
    streamed = chunks(client, user("hi", n=3))
    assert [text_of(streamed, i) for i in range(3)] == ["You said: hi"] * 3


def test_seeds(client: TestClient) -> None:
    def hot(seed: int | None) -> str:
        body = {**user("hi"), "temperature": 50, "top_k": 0, "min_p": 0, "top_p": 1, "max_tokens": 30, "seed": seed}
        return str(ask(client, body)["choices"][0]["message"]["content"])

    assert hot(7) == hot(7)
    assert hot(-1) == hot(2**64 - 1)
    assert len({hot(None) for _ in range(3)}) == 3


def test_logprobs(client: TestClient) -> None:
    found = ask(client, user("say ä", logprobs=True, top_logprobs=2))
    content = found["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in content] == [[0xC3], [0xA4]]
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    assert content[0]["top_logprobs"][0]["logprob"] == content[0]["logprob"] <= 0
    streamed = chunks(client, user("say ä", logprobs=True))
    told = [entry for chunk in streamed for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert [entry["bytes"] for entry in told] == [[0xC3], [0xA4]]
    assert all(entry["top_logprobs"] == [] for entry in told)


def test_logit_bias(client: TestClient) -> None:
    found = ask(client, user("say abc", logit_bias={str(ord("a")): -100, str(ord("z")): 50}, max_tokens=2))
    assert found["choices"][0]["message"]["content"] == "zz"


def test_formats(client: TestClient) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**schema, "additionalProperties": False}}}
    body = user('say {"a": true}', response_format=wanted)
    assert ask(client, body)["choices"][0]["message"]["content"] == '{"a": true}'
    body = user("say maybe", response_format=wanted)
    assert ask(client, body)["choices"][0]["message"]["content"] in ('{"a": true}', '{"a": false}')
    for extra in ({"regex": "[xy]{3}"}, {"response_format": {"type": "regex", "regex": "[xy]{3}"}}):
        assert ask(client, user("say yyz", **extra))["choices"][0]["message"]["content"] == "yyx"
    body = user('say {"b": 1}', response_format={"type": "json_object"})
    assert ask(client, body)["choices"][0]["message"]["content"] == '{"b": 1}'


def test_messages_of_all_kinds(client: TestClient) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        {"role": "user", "content": "say yes"},
    ]
    found = ask(client, {"messages": messages, "temperature": 0})
    assert found["choices"][0]["message"]["content"] == "yes"


# ---- what is wrong


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_body"),
        ({"messages": []}, 400, "invalid_body"),
        (user("x", nonsense=1), 400, "invalid_body"),
        (user("x", temperature="hot"), 400, "invalid_body"),
        (user("x", top_p=2), 400, "invalid_body"),
        (user("x", stop=[""]), 400, "invalid_value"),
        (user("x", n=99), 400, None),
        (user("x", top_logprobs=2), 400, None),
        (user("x", logit_bias={"a": 1}), 400, None),
        (user("x", logit_bias={"9999": 1}), 400, "invalid_value"),
        (user("x", model="no-such"), 404, "model_not_found"),
        (user("x", model="/etc/passwd"), 404, "model_not_found"),
        (user("x", model="hf:a/b"), 404, "model_not_found"),
        (user("x", model="http://evil/x.gguf"), 404, "model_not_found"),
        (user("x" * 5000), 400, "context_length_exceeded"),
        (user("x", regex="("), 400, "invalid_grammar"),
        (user("x", regex="a", response_format={"type": "json_object"}), 400, None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, None),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "invalid_body"),
        (user("x", tool_choice="required"), 400, None),
        (user("x\ud800"), 400, "invalid_value"),
    ],
)
def test_what_is_wrong_is_said(client: TestClient, body: dict[str, Any], status: int, code: str | None) -> None:
    for stream in (False, True):
        raw = json.dumps({**body, "stream": stream})
        response = client.post(CHAT, content=raw, headers={"Content-Type": "application/json"})
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert error["message"]
        assert error["code"] == code
        assert set(error) == {"message", "type", "param", "code"}
    assert ask(client, user("hi"))["choices"][0]["message"]["content"] == "You said: hi"


def test_the_first_of_what_is_wrong_is_named(client: TestClient) -> None:
    error = ask(client, user("x", nonsense=1), 400)["error"]
    assert error["param"] == "nonsense"
    assert "unknown field" in error["message"]


def test_a_model_without_a_template() -> None:
    with opened(spec(chats=False)) as client:
        error = client.post(CHAT, json=user("x")).json()["error"]
    assert "no chat template" in error["message"]


def test_too_many_messages() -> None:
    with opened(n_messages=3) as client:
        body = {"messages": [{"role": "user", "content": "x"}] * 4}
        response = client.post(CHAT, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "too_many_messages"


def test_an_answer_over_time_ends_with_what_it_has() -> None:
    with opened(spec(step_s=0.01), request_s=2) as client:
        found = client.post(CHAT, json=user("count 500")).json()
        assert found["choices"][0]["finish_reason"] == "length"
        assert 0 < found["usage"]["completion_tokens"] < 500
        late = client.post(CHAT, json=user("x" * 400))
        assert (late.status_code, late.json()["error"]["code"]) == (503, "timeout")
