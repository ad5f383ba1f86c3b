"""Completions, embeddings, responses, Anthropic's messages and tokens over a scripted model, held against the types of
their own clients."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import numpy as np
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from serving import CALL, PARAMETERS, events, opened, spec
from starlette.testclient import TestClient

RESPONSE_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MESSAGE_EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def post(client: TestClient, path: str, body: dict[str, Any], status: int = 200) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


# ---- completions


def complete(client: TestClient, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = post(client, "/v1/completions", {"temperature": 0, **body})
    Completion.model_validate(found, strict=True)
    return found


def test_a_text_goes_on(client: TestClient) -> None:
    found = complete(client, prompt="abc", max_tokens=3)
    assert found["choices"][0]["text"] == "ccc"
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["prompt_tokens"] == 3
    assert len(complete(client, prompt="abc")["choices"][0]["text"]) == 16
    assert complete(client, prompt=[97, 98], max_tokens=2)["choices"][0]["text"] == "bb"


def test_several_prompts(client: TestClient) -> None:
    found = complete(client, prompt=["a", "b"], n=2, max_tokens=1, echo=True)
    assert [choice["text"] for choice in found["choices"]] == ["aa", "aa", "bb", "bb"]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    tokens = complete(client, prompt=[[97], [98]], max_tokens=1)
    assert [choice["text"] for choice in tokens["choices"]] == ["a", "b"]


def test_logprobs_of_a_text(client: TestClient) -> None:
    found = complete(client, prompt="a", max_tokens=2, logprobs=2)
    told = found["choices"][0]["logprobs"]
    assert told["tokens"] == ["a", "a"]
    assert told["text_offset"] == [0, 1]
    assert len(told["top_logprobs"][0]) == 2


def test_the_best_of_some(client: TestClient) -> None:
    hot = {"temperature": 3, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 5}
    each = [
        complete(client, prompt="a", max_tokens=4, logprobs=0, **{**hot, "seed": 5 + i})["choices"][0] for i in range(4)
    ]
    best = max(each, key=lambda choice: sum(choice["logprobs"]["token_logprobs"]) / 4)
    found = complete(client, prompt="a", max_tokens=4, best_of=4, **hot)
    assert [choice["text"] for choice in found["choices"]] == [best["text"]]
    assert found["choices"][0]["logprobs"] is None


def test_streams_of_text(client: TestClient) -> None:
    body = {"prompt": ["a", "b"], "max_tokens": 2, "temperature": 0, "stream": True, "echo": True}
    response = client.post("/v1/completions", json={**body, "stream_options": {"include_usage": True}})
    found = events(response.text)
    assert found.pop() == (None, "[DONE]")
    texts = ["", ""]
    for _, chunk in found[:-1]:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == ["aaa", "bbb"]
    assert found[-1][1]["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": []},
        {"prompt": "a", "suffix": "b"},  # this model was not trained for it
        {"prompt": "a", "best_of": 1, "n": 2},
        {"prompt": "a", "best_of": 2, "stream": True},
        {"prompt": "a", "echo": True, "logprobs": 1},
        {"prompt": ["a"] * 30},
        {"prompt": [999]},
        {"prompt": ""},
        {},
    ],
)
def test_completions_that_cannot_be(client: TestClient, wrong: dict[str, Any]) -> None:
    assert post(client, "/v1/completions", wrong, 400)["error"]["message"]


# ---- embeddings


def test_embeddings(client: TestClient) -> None:
    found = post(client, "/v1/embeddings", {"input": ["aa", "ab"], "model": "scripted"})
    CreateEmbeddingResponse.model_validate(found, strict=True)
    first, second = (np.array(entry["embedding"]) for entry in found["data"])
    assert np.allclose(np.linalg.norm([first, second], axis=1), 1)
    assert found["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    one = post(client, "/v1/embeddings", {"input": "ab", "encoding_format": "base64"})
    assert np.allclose(np.frombuffer(base64.b64decode(one["data"][0]["embedding"]), "<f4"), second)
    assert np.allclose(post(client, "/v1/embeddings", {"input": [97, 98]})["data"][0]["embedding"], second)
    short = post(client, "/v1/embeddings", {"input": "ab", "dimensions": 3})["data"][0]["embedding"]
    assert len(short) == 3
    assert np.isclose(np.linalg.norm(short), 1)


@pytest.mark.parametrize(
    "wrong", [{"input": ""}, {"input": []}, {"input": "a", "dimensions": 99}, {"input": "x" * 5000}]
)
def test_embeddings_that_cannot_be(client: TestClient, wrong: dict[str, Any]) -> None:
    assert post(client, "/v1/embeddings", wrong, 400)["error"]["message"]


# ---- responses


def respond(client: TestClient, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = post(client, "/v1/responses", {"temperature": 0, **body})
    Response.model_validate(found)
    return found


def text_of(found: dict[str, Any]) -> str:
    return "".join(part["text"] for item in found["output"] if item["type"] == "message" for part in item["content"])


FUNCTION = {"type": "function", "name": "add", "parameters": PARAMETERS, "strict": True}


def test_a_response(client: TestClient) -> None:
    found = respond(client, input="say hello", instructions="be kind", metadata={"a": "b"})
    assert (found["status"], text_of(found)) == ("completed", "hello")
    assert found["usage"]["output_tokens"] == 5
    cut = respond(client, input="say hello", max_output_tokens=2)
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][0]["status"] == "incomplete"


def test_responses_follow_on_each_other(client: TestClient) -> None:
    first = respond(client, input="say one")
    second = respond(client, input="say two", previous_response_id=first["id"])
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"] + 5
    assert client.get(f"/v1/responses/{second['id']}").json()["output"] == second["output"]
    assert client.delete(f"/v1/responses/{first['id']}").json()["deleted"] is True
    gone = post(client, "/v1/responses", {"input": "x", "previous_response_id": first["id"]}, 400)
    assert gone["error"]["code"] == "previous_response_not_found"
    assert client.get(f"/v1/responses/{first['id']}").status_code == 404
    unkept = respond(client, input="say three", store=False)
    assert client.get(f"/v1/responses/{unkept['id']}").status_code == 404


def test_calls_in_responses(client: TestClient) -> None:
    found = respond(client, input=f"say Well. {CALL}", tools=[FUNCTION])
    message, call = found["output"]
    assert message["content"][0]["text"] == "Well. "
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "add", {"a": 1, "b": 2})
    items = [{"role": "user", "content": "x"}, message, call]
    items += [{"type": "function_call_output", "call_id": call["call_id"], "output": "3"}]
    assert respond(client, input=[*items, {"role": "user", "content": "say yes"}], tools=[FUNCTION])["output"]
    forced = respond(client, input="x", tools=[FUNCTION], tool_choice={"type": "function", "name": "add"})
    assert forced["output"][0]["type"] == "function_call"


def test_formats_and_logprobs_of_responses(client: TestClient) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    assert text_of(respond(client, input="x", text=text)) == '{"a": 1}'
    told = respond(client, input="say ab", include=["message.output_text.logprobs"], top_logprobs=1)
    assert [entry["token"] for entry in told["output"][0]["content"][0]["logprobs"]] == ["a", "b"]


def told(found: list[tuple[str | None, Any]]) -> list[str | None]:
    """Names of events, many of one kind in a row as one."""
    return [name for name, _ in itertools.groupby(name for name, _ in found)]


def test_a_call_that_is_cut(client: TestClient) -> None:
    """What was written of it is there, and it says that it has no end."""
    found = respond(client, input=f"say {CALL}", tools=[FUNCTION], max_output_tokens=len(CALL) - 15)
    (call,) = found["output"]
    assert (found["status"], call["status"], call["arguments"]) == ("incomplete", "incomplete", '{"a": 1, "b": 2')
    body = {"input": f"say {CALL}", "tools": [FUNCTION], "max_output_tokens": len(CALL) - 15, "stream": True}
    last = events(client.post("/v1/responses", json={**body, "temperature": 0}).text)[-1][1]["response"]
    assert (last["status"], last["output"][0]["arguments"]) == ("incomplete", call["arguments"])
    cut = converse(client, f"say {CALL}", tools=[TOOL], max_tokens=len(CALL) - 15)
    assert (cut["stop_reason"], cut["content"][0]["name"]) == ("max_tokens", "add")


def test_a_response_as_it_comes(client: TestClient) -> None:
    body = {"input": f"say Well. {CALL}", "tools": [FUNCTION], "stream": True, "temperature": 0, "top_logprobs": 1}
    found = events(client.post("/v1/responses", json=body).text)
    for name, data in found:
        assert RESPONSE_EVENTS.validate_python(data).type == name
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    deltas = [data["delta"] for name, data in found if name == "response.output_text.delta"]
    assert "".join(deltas) == "Well. "
    assert told(found) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    fragments = [data["delta"] for name, data in found if name == "response.function_call_arguments.delta"]
    assert len(fragments) > 5
    (done,) = (data for name, data in found if name == "response.function_call_arguments.done")
    assert done["arguments"] == "".join(fragments) == found[-1][1]["response"]["output"][1]["arguments"]
    empty = events(client.post("/v1/responses", json={"input": "say ", "stream": True, "temperature": 0}).text)
    assert empty[-1][1]["response"]["output"][0]["content"][0]["text"] == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": []},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"type": "reasoning", "id": "x", "summary": []}]},
        {"input": "x", "background": True},
        {"input": "x", "tools": [{"type": "web_search"}]},
        {"input": "x", "previous_response_id": "resp_none"},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
    ],
)
def test_responses_that_cannot_be(client: TestClient, wrong: dict[str, Any]) -> None:
    assert post(client, "/v1/responses", wrong, 400)["error"]["message"]


# ---- Anthropic's messages

TOOL = {"name": "add", "description": "adds", "input_schema": PARAMETERS}


def converse(client: TestClient, text: Any, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    found: dict[str, Any] = post(
        client, "/v1/messages", {"max_tokens": 200, "temperature": 0, "messages": messages, **body}
    )
    Message.model_validate(found)
    return found


def test_a_message(client: TestClient) -> None:
    found = converse(client, "say hello", system="be kind")
    assert found["content"] == [{"type": "text", "text": "hello"}]
    assert (found["stop_reason"], found["stop_sequence"]) == ("end_turn", None)
    assert found["usage"]["output_tokens"] == 5
    again = converse(client, "say hello", system=[{"type": "text", "text": "be kind"}])
    assert again["usage"]["cache_read_input_tokens"] > 0
    assert converse(client, "say hello", max_tokens=2)["stop_reason"] == "max_tokens"
    stopped = converse(client, "say hello", stop_sequences=["zz", "ll"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "ll")
    assert stopped["content"][0]["text"] == "he"
    full = converse(client, "count 4000", max_tokens=100_000)
    assert full["stop_reason"] == "model_context_window_exceeded"


def test_tools_of_messages(client: TestClient) -> None:
    found = converse(client, f"say Well. {CALL}", tools=[TOOL])
    text, use = found["content"]
    assert text["text"] == "Well. "
    assert (use["name"], use["input"], found["stop_reason"]) == ("add", {"a": 1, "b": 2}, "tool_use")
    turns = [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": [text, use]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": use["id"], "content": [{"type": "text", "text": "3"}]},
                {"type": "text", "text": "say three"},
            ],
        },
    ]
    assert converse(client, turns, tools=[TOOL])["content"][0]["text"] == "three"
    for choice in ({"type": "any"}, {"type": "tool", "name": "add", "disable_parallel_tool_use": True}):
        assert converse(client, "x", tools=[TOOL], tool_choice=choice)["stop_reason"] == "tool_use"
    assert converse(client, f"say {CALL}", tools=[TOOL], tool_choice={"type": "none"})["stop_reason"] == "end_turn"


def test_a_message_as_it_comes(client: TestClient) -> None:
    body = {"max_tokens": 200, "temperature": 0, "stream": True, "tools": [TOOL]}
    body["messages"] = [{"role": "user", "content": f"say Well. {CALL}"}]
    found = events(client.post("/v1/messages", json=body).text)
    for name, data in found:
        assert MESSAGE_EVENTS.validate_python(data).type == name
    assert told(found) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    fragments = [
        data["delta"]["partial_json"]
        for name, data in found
        if name == "content_block_delta" and data["delta"]["type"] == "input_json_delta"
    ]
    assert len(fragments) > 5
    assert json.loads("".join(fragments)) == {"a": 1, "b": 2}
    assert found[-2][1]["delta"]["stop_reason"] == "tool_use"
    assert found[-2][1]["usage"]["output_tokens"] > 5


@pytest.mark.parametrize(("written", "taken"), [("[1, 2]", [1, 2]), ('"{\\"a\\": 1}"', None), ('"x"', "x")])
def test_arguments_that_are_no_object_are_put_into_one(client: TestClient, written: str, taken: Any) -> None:
    text = f'say <tool_call>{{"name": "add", "arguments": {written}}}</tool_call>'
    body = {"max_tokens": 200, "temperature": 0, "tools": [TOOL], "messages": [{"role": "user", "content": text}]}
    expected = {"arguments": taken} if taken else {"a": 1}
    assert post(client, "/v1/messages", body)["content"][0]["input"] == expected
    found = events(client.post("/v1/messages", json={**body, "stream": True}).text)
    fragments = [data["delta"]["partial_json"] for name, data in found if name == "content_block_delta"]
    assert json.loads("".join(fragments)) == expected


def test_a_schema_for_a_message(client: TestClient) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    found = converse(client, "x", output_config={"format": {"type": "json_schema", "schema": schema}})
    assert found["content"][0]["text"] == '{"a": 1}'


def test_counting_a_message(client: TestClient) -> None:
    messages = [{"role": "user", "content": "say hello"}]
    counted = post(client, "/v1/messages/count_tokens", {"messages": messages})["input_tokens"]
    usage = converse(client, "say hello")["usage"]
    assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": [], "max_tokens": 5},
        {"messages": [{"role": "assistant", "content": "x"}], "max_tokens": 5},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}], "max_tokens": 5},
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "tool_choice": {"type": "tool"}},
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "stop_sequences": [""]},
    ],
)
def test_messages_that_cannot_be(client: TestClient, wrong: dict[str, Any]) -> None:
    found = post(client, "/v1/messages", wrong, 400)
    assert found["type"] == "error"
    assert found["error"]["type"] == "invalid_request_error"


# ---- tokens, models, metrics


def test_tokens(client: TestClient) -> None:
    assert post(client, "/tokenize", {"content": "ab"})["tokens"] == [97, 98]
    assert post(client, "/tokenize", {"prompt": "ab"})["count"] == 2
    pieces = post(client, "/tokenize", {"content": "aä", "with_pieces": True})["tokens"]
    assert pieces == [{"id": 97, "piece": "a"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0xA4, "piece": [0xA4]}]
    assert post(client, "/detokenize", {"tokens": [0xC3, 0xA4]})["content"] == "ä"
    for wrong in ({}, {"content": "a", "prompt": "b"}):
        post(client, "/tokenize", wrong, 400)
    assert "vocabulary" in post(client, "/detokenize", {"tokens": [999]}, 400)["error"]["message"]


def test_models(client: TestClient) -> None:
    found = client.get("/v1/models").json()
    assert [entry["id"] for entry in found["data"]] == ["scripted"]
    for entry in found["data"]:
        Model.model_validate(entry, strict=True)
    assert client.get("/v1/models/scripted").json()["id"] == "scripted"
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_metrics() -> None:
    with opened(spec(step_s=0.001)) as client:
        for text in ("say abc", "say abc"):
            post(client, "/v1/responses", {"input": text, "temperature": 0})
        post(client, "/v1/responses", {"input": "x" * 5000}, 400)
        found = dict(
            line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")
        )
    name = 'model="scripted"'
    assert float(found[f'edgeinfer_requests_total{{{name},outcome="answered",route="responses"}}']) == 2
    assert float(found[f'edgeinfer_requests_total{{{name},outcome="failed",route="responses"}}']) == 1
    assert float(found[f"edgeinfer_generated_tokens_total{{{name}}}"]) == 6
    assert float(found[f"edgeinfer_time_to_first_token_seconds_count{{{name}}}"]) == 2
    assert float(found[f"edgeinfer_inter_token_seconds_count{{{name}}}"]) == 4
    assert float(found[f'edgeinfer_cached_tokens_total{{{name},source="memory"}}']) > 10
    assert float(found[f"edgeinfer_queued_requests{{{name}}}"]) == 0
