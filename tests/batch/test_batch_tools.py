"""Rows with tools, and responses: read by the server's own code, computed here or by a server, written as OpenAI's
batch output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import server_models
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from serving import CALL, PARAMETERS, opened, user

from edgeinfer import batch
from edgeinfer.batch.ray_worker import decoded, encoded
from edgeinfer.batch.reading import Job
from edgeinfer.batch.rows import Raw, Row, RowError
from edgeinfer.batch.wire import answer_of, body_of
from edgeinfer.core import Grammar
from edgeinfer.errors import BackendUnavailable, EngineError, UsageError
from edgeinfer.llm import LLM

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
FUNCTION = {"name": "add", "description": "adds", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
FORCED = {"type": "function", "function": {"name": "add"}}
TOOL = {"type": "function", **FUNCTION}
HISTORY: list[dict[str, Any]] = [
    {"role": "developer", "content": "be kind"},
    {"role": "user", "content": "1 + 2?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "3"},
    {"role": "user", "content": "say three"},
]


def line(url: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": body}


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return line(CHAT, {**user(text), "model": "scripted", **fields})


def respond(given: Any, **fields: Any) -> dict[str, Any]:
    return line(RESPONSES, {"input": given, "model": "scripted", "temperature": 0, **fields})


ROWS = [
    chat(f"say Well. {CALL}\n{CALL}", tools=TOOLS),
    chat("say hello", tools=TOOLS),
    chat(f"say {CALL}", tools=TOOLS, tool_choice="none"),
    chat("say never", tools=TOOLS, tool_choice=FORCED, max_tokens=200),
    chat("say never", tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=200),
    chat("", messages=HISTORY, tools=TOOLS),
    chat(f"say {CALL}", tools=TOOLS, max_tokens=len(CALL) - 15),
    respond(f"say Well. {CALL}", tools=[TOOL], instructions="be kind"),
    respond("say hello", metadata={"a": "b"}),
    respond("say hello", max_output_tokens=2),
    respond("x", tools=[TOOL], tool_choice={"type": "function", "name": "add"}),
    respond([{"role": "user", "content": [{"type": "input_text", "text": "say yes"}]}], top_logprobs=1),
]


class Folder:
    def __init__(self, path: Path) -> None:
        self.path, self.source, self.out = path, path / "in.jsonl", path / "out.jsonl"

    def run(self, computer: LLM, rows: list[Any], **options: Any) -> batch.Report:
        self.source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return batch.run(self.source, computer, self.out, **{"order": "input", "max_tokens": 300, **options})

    def bodies(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.out.read_text().splitlines()]
        assert all(
            (one["custom_id"], one["error"], one["response"]["status_code"]) == ("a", None, 200) for one in lines
        )
        return [one["response"]["body"] for one in lines]

    def errors(self) -> list[str]:
        lines = self.out.with_name("out.errors.jsonl").read_text().splitlines()
        return [one["error"]["message"] for one in sorted(map(json.loads, lines), key=lambda one: one["index"])]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with server_models.open_scripted({}, lambda _line: None) as found:
        yield found


def without_names(value: Any) -> Any:
    """What a server and a batch job say alike: all but ids, times, and what is in the metrics."""
    if isinstance(value, list):
        return [without_names(one) for one in value]
    if not isinstance(value, dict):
        return value
    varying = {"id", "call_id", "created", "created_at", "completed_at", "timings", "model"}
    varying |= {"prompt_tokens_details", "completion_tokens_details", "input_tokens_details"}
    return {name: without_names(one) for name, one in value.items() if name not in varying}


def test_rows_are_answered_as_the_server_answers_them(folder: Folder, llm: LLM) -> None:
    report = folder.run(llm, ROWS)
    assert (report.n_done, report.n_failed) == (len(ROWS), 0)
    bodies = folder.bodies()
    with opened() as client:
        for row, body in zip(ROWS, bodies, strict=True):
            asked = dict(row["body"])
            if row["url"] == CHAT:
                asked.setdefault("max_tokens", 300)
                ChatCompletion.model_validate(body, strict=True)
            else:
                asked.setdefault("max_output_tokens", 300)
                Response.model_validate(body)
            found = client.post(row["url"], json=asked).json()
            found["max_output_tokens"] = body.get("max_output_tokens", found.get("max_output_tokens"))
            assert without_names(body) == {
                name: value for name, value in without_names(found).items() if name in body or value is not None
            }


def test_what_rows_with_tools_say(folder: Folder, llm: LLM) -> None:
    folder.run(llm, ROWS)
    bodies = folder.bodies()
    choices = [body["choices"][0] for body in bodies[:7]]
    two = choices[0]["message"]
    assert two["content"] == "Well. "
    assert [json.loads(call["function"]["arguments"]) for call in two["tool_calls"]] == [{"a": 1, "b": 2}] * 2
    assert choices[1]["message"] == {"role": "assistant", "content": "hello", "refusal": None}
    assert choices[2]["message"]["content"] == CALL
    for choice in choices[3:5]:
        (call,) = choice["message"]["tool_calls"]
        assert (call["function"]["name"], choice["finish_reason"]) == ("add", "tool_calls")
        assert set(json.loads(call["function"]["arguments"])) == {"a", "b"}
    assert choices[5]["message"]["content"] == "three"
    assert choices[6]["finish_reason"] == "length"
    message, call = bodies[7]["output"]
    assert (message["content"][0]["text"], call["name"]) == ("Well. ", "add")
    assert [body["status"] for body in bodies[7:10]] == ["completed", "completed", "incomplete"]
    assert bodies[10]["output"][0]["type"] == "function_call"
    names = [item.get("call_id") for body in bodies[7:] for item in body["output"]]
    names += [call["id"] for choice in choices for call in choice["message"].get("tool_calls", ())]
    assert len(set(filter(None, names))) == len(list(filter(None, names))) == 7


def test_a_template_that_knows_no_tools(folder: Folder) -> None:
    with server_models.open_scripted({"tools": False}, lambda _line: None) as plain:
        report = folder.run(plain, ROWS)
    assert (report.n_done, report.n_failed) == (len(ROWS), 0)
    assert folder.bodies()[0]["choices"][0]["finish_reason"] == "tool_calls"
    assert folder.bodies()[0]["usage"]["prompt_tokens"] > folder.bodies()[2]["usage"]["prompt_tokens"] + 300


def test_the_same_again_and_gone_on_with(folder: Folder, llm: LLM) -> None:
    folder.run(llm, ROWS)
    whole = folder.out.read_bytes()
    folder.run(llm, ROWS, restart=True)
    assert folder.out.read_bytes() == whole, "nothing in it differs from run to run"
    folder.run(llm, ROWS, restart=True, limit=5)
    report = folder.run(llm, ROWS)
    assert report.n_done == len(ROWS)
    assert folder.out.read_bytes() == whole


WRONG = {"name": "f", "parameters": {"type": 5}}
BAD: list[tuple[Any, str]] = [
    (chat("x", tools=3), "tools: Input should be a valid list"),
    (chat("x", tools=[{"type": "function"}]), "tools.0.function: Field required"),
    (chat("x", tools=[{"type": "web_search"}]), "tools.0.type"),
    (chat("x", tools=[{"type": "function", "function": {"name": "a b"}}]), "tools.0.function.name"),
    (chat("x", tools=TOOLS * 2), "two tools have one name"),
    (chat("x", tool_choice="required"), "there are no tools"),
    (chat("x", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "b"}}), "tool_choice names 'b'"),
    (chat("x", tools=TOOLS, tool_choice="required", regex="a"), "only one of"),
    (chat("x", tools=[{"type": "function", "function": WRONG}], tool_choice="required"), "type must be"),
    (chat("x", messages=[{"role": "assistant", "tool_calls": [3]}]), "messages[0].tool_calls[0] must be an object"),
    (chat("x", messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]), "arguments is a null"),
    (chat("x", functions=[FUNCTION]), "unknown parameter 'functions'"),
    (line("/v1/completions", {"prompt": "x", "tools": TOOLS}), "unknown parameter 'tools'"),
    (respond([]), "input"),
    (respond("x", nonsense=1), "nonsense: unknown field"),
    (respond("x", temperature=-1), "temperature"),
    (respond("x", stream=True), "nobody reads a batch as it comes"),
    (respond("x", previous_response_id="resp_1"), "previous_response_id: rows of a batch"),
    (respond([{"type": "reasoning", "id": "x", "summary": []}]), "nothing to respond to"),
    (respond([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]), "take text"),
    (respond("x", tools=[TOOL], tool_choice="required", text={"format": {"type": "json_object"}}), "only one of"),
    (respond("x" * 5000), "tokens but the context holds"),
]


def test_bad_rows_are_in_the_errors(folder: Folder, llm: LLM) -> None:
    rows = [row for bad, _ in BAD for row in (bad, ROWS[1])]
    report = folder.run(llm, rows)
    assert (report.n_done, report.n_failed, report.complete) == (len(BAD), len(BAD), True)
    for i, (message, (_, why)) in enumerate(zip(folder.errors(), BAD, strict=True)):
        assert message.startswith(f"line {2 * i + 1}: "), message
        assert why in message, message


def test_a_schema_of_the_job_and_a_response(folder: Folder, llm: LLM) -> None:
    folder.run(llm, [respond("x"), respond("x", regex="[ab]{3}")], grammar=Grammar("json_schema", '{"const": 1}'))
    texts = [body["output"][0]["content"][0]["text"] for body in folder.bodies()]
    assert texts[0] == "1"
    assert len(texts[1]) == 3


# ---- elsewhere


def read(row: dict[str, Any], **defaults: Any) -> Row:
    return Job(defaults=defaults).read(Raw(3, 4, "0123456789abcdef", json.dumps(row).encode()))


def test_rows_travel_whole() -> None:
    for row in (read(ROWS[3]), read(ROWS[7])):
        again = decoded(encoded(row))
        assert (again.names, again.body, again.options) == (row.names, row.body, row.options)


def test_rows_as_requests() -> None:
    path, body = body_of(read(ROWS[3]), "m")
    assert path == "/chat/completions"
    assert (body["tools"], body["tool_choice"], body["messages"]) == (TOOLS, FORCED, user("say never")["messages"])
    assert "grammar" not in body
    assert "response_format" not in body
    path, body = body_of(read(ROWS[5]), "m")
    assert body["messages"][2]["tool_calls"] == HISTORY[2]["tool_calls"], "arguments are text for a server"
    path, body = body_of(read(ROWS[7], max_tokens=9, temperature=0.5, top_k=3), "m")
    given: Any = ROWS[7]["body"]
    assert (path, body) == ("/responses", {**given, "model": "m", "max_output_tokens": 9, "top_k": 3})
    schema = Grammar("json_schema", '{"const": 1}')
    assert body_of(read(ROWS[8], grammar=schema), "m")[1]["text"]["format"]["schema"] == {"const": 1}
    assert body_of(read(ROWS[8], grammar=Grammar("regex", "a")), "m")[1]["regex"] == "a"
    assert "text" not in body_of(read(ROWS[10], grammar=schema), "m")[1], "the call that is demanded goes before"
    assert body_of(read(ROWS[0], grammar=schema), "m")[1]["response_format"]["json_schema"]["schema"] == {"const": 1}
    for row in (ROWS[0], ROWS[8]):
        with pytest.raises(UsageError, match="Lark"):
            body_of(read(row, grammar=Grammar("lark", "start: /a/")), "m")


def test_answers_of_servers_get_names_that_stay() -> None:
    call = {"id": "random", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    found: Any = answer_of(read(ROWS[0]), json.loads(json.dumps(body)), {}).body
    name = found["choices"][0]["message"]["tool_calls"][0]["id"]
    assert name.startswith("call_")
    again: Any = answer_of(read(ROWS[0]), json.loads(json.dumps(body)), {}).body
    assert again == found
    item = {"id": "random", "call_id": "random", "type": "function_call", "name": "add", "arguments": "{}"}
    usage = {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
    computed = answer_of(read(ROWS[7]), {"id": "r", "created_at": 5, "output": [item], "usage": usage}, {})
    settled: Any = computed.body
    assert (settled["created_at"], settled["usage"]["input_tokens_details"]) == (0, {"cached_tokens": 0})
    assert "random" not in json.dumps(settled)
    assert (computed.stats.n_prompt, computed.stats.n_reused, computed.stats.n_generated) == (7, 2, 3)
    for wrong in ({}, {"output": [3]}, {"output": [], "status": "failed", "error": {"message": "broken"}}):
        with pytest.raises(EngineError):
            answer_of(read(ROWS[7]), wrong, {})


def test_without_pydantic_only_these_rows_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "edgeinfer.bodies.chat", None)
    monkeypatch.setitem(sys.modules, "edgeinfer.bodies.responses", None)
    assert read(chat("x")).names == ()
    for row in (ROWS[0], ROWS[8]):
        with pytest.raises(BackendUnavailable, match=r"pip install 'edgeinfer\[server\]'"):
            read(row)
    with pytest.raises(RowError):
        read(chat("x", n=0))
