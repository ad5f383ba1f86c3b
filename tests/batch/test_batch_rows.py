"""What a row may say, what becomes of it, and what is said about one that cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.completion import Completion

from edgeinfer.errors import UnsupportedModel

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "hello"}]


def line(body: Any, url: Any = CHAT, **more: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": body, **more}


def chat(**body: Any) -> dict[str, Any]:
    return line({"model": "any", "messages": ASK, **body})


def test_openai_lines(job: Any) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    job.write(
        chat(max_tokens=3, logprobs=True, top_logprobs=2),
        line({"model": "m", "messages": parts, "max_completion_tokens": 3}),
        chat(n=2, max_tokens=4, temperature=1.0, seed=None, user="u", metadata={"a": "b"}, stop=["~", "!"]),
        line({"prompt": "Once", "max_tokens": 5, "logprobs": 1, "echo": None}, "/v1/completions"),
        line({"prompt": [79, 110], "max_tokens": 5}, "/v1/completions"),
        line({"input": ["ab", "c"], "model": "m"}, "/v1/embeddings"),
        line({"input": "c", "encoding_format": "base64"}, "/v1/embeddings"),
        line({"input": "ab", "dimensions": 3}, "/v1/embeddings"),
    )
    report = job.run(order="input")
    assert (report.n_done, report.n_failed, job.errors) == (8, 0, [])
    rows = job.lines()
    for i, row in enumerate(rows):
        assert row["id"].startswith(f"batch_req_{i}_")
        assert (row["custom_id"], row["error"], row["response"]["status_code"]) == ("a", None, 200)
    bodies = [row["response"]["body"] for row in rows]
    first, second = (ChatCompletion.model_validate(body, strict=True) for body in bodies[:2])
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.choices[0].logprobs is not None
    content = first.choices[0].logprobs.content or []
    assert "".join(token.token for token in content) == first.choices[0].message.content
    assert [len(token.top_logprobs) for token in content] == [2, 2, 2]
    assert first.usage is not None
    assert first.usage.completion_tokens == 3
    two = ChatCompletion.model_validate(bodies[2], strict=True)
    assert [choice.index for choice in two.choices] == [0, 1]
    text = Completion.model_validate(bodies[3], strict=True).choices[0]
    assert text.logprobs is not None
    assert "".join(text.logprobs.tokens or []) == text.text
    assert text.logprobs.text_offset == [0, 1, 2, 3, 4]
    assert Completion.model_validate(bodies[4], strict=True).choices[0].text
    vectors = CreateEmbeddingResponse.model_validate(bodies[5], strict=True)
    assert [len(one.embedding) for one in vectors.data] == [8, 8]
    assert vectors.usage.total_tokens == 3
    assert isinstance(bodies[6]["data"][0]["embedding"], str)
    short = bodies[7]["data"][0]["embedding"]
    assert len(short) == 3
    assert abs(sum(number * number for number in short) - 1) < 1e-6
    assert job.said == ["rows name another model ('any'); unnamed answers them"]


def test_plain_lines(job: Any) -> None:
    job.write(
        {"prompt": "hello"},
        {"messages": ASK, "custom_id": "x", "metadata": {"a": ["\ud800", None]}},
        {"prompt": "hello", "id": 7, "system": "Be brief", "logprobs": 1, "max_tokens": 2},
    )
    job.run(order="input")
    plain, same, third = job.lines()
    assert set(plain) == {"id", "custom_id", "index", "text", "finish_reason", "usage"}
    assert plain["text"] == same["text"]
    assert (plain["index"], plain["custom_id"], same["custom_id"], third["custom_id"]) == (0, None, "x", "7")
    assert same["metadata"] == {"a": ["\ud800", None]}
    assert len(third["logprobs"]) == 2
    assert third["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_raw_and_system(job: Any) -> None:
    job.write({"prompt": "hello"}, {"messages": [{"role": "system", "content": "S"}, *ASK]}, {"messages": ASK})
    job.run(order="input", system="S")
    n_tokens = [row["usage"]["prompt_tokens"] for row in job.lines()]
    assert n_tokens[0] == n_tokens[1] == n_tokens[2]
    job.run(order="input", raw=True, restart=True)
    assert job.lines()[0]["usage"]["prompt_tokens"] == 5


def test_a_schema_of_the_job_and_of_a_row(job: Any) -> None:
    from edgeinfer.core import Grammar

    own = {"type": "object", "properties": {"b": {"const": 2}}, "required": ["b"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": own}}
    job.write({"prompt": "x"}, {"prompt": "x", "json_schema": own}, chat(response_format=form), chat(regex="[ab]{3}"))
    job.run(order="input", max_tokens=50, grammar=Grammar("json_schema", '{"const": 1}'))
    texts = [row["text"] if "text" in row else row["response"]["body"] for row in job.lines()]
    assert json.loads(texts[0]) == 1
    assert json.loads(texts[1]) == {"b": 2}
    assert json.loads(texts[2]["choices"][0]["message"]["content"]) == {"b": 2}
    assert len(texts[3]["choices"][0]["message"]["content"]) == 3


def test_a_row_that_samples_is_the_same_again(job: Any) -> None:
    job.write(*({"prompt": "hello", "temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} for _ in range(3)))
    job.run(max_tokens=8)
    first = sorted(row["text"] for row in job.lines())
    assert len(set(first)) == 3, "each row has a seed of its own"
    job.run(max_tokens=8, restart=True)
    assert sorted(row["text"] for row in job.lines()) == first


BAD: list[tuple[Any, str]] = [
    (b"{", "not JSON"),
    (b"nothing", "not JSON"),
    (b"[1]", "must be an object"),
    (b"NaN", "no number"),
    (b'{"prompt": "\xff"}', "not UTF-8"),
    (b"[" * 100_000, "not JSON"),
    (b'{"prompt": ' + b"1" * 5000 + b"}", "not JSON"),
    (b'{"prompt": "' + b"x" * (16 << 20) + b'"}', "bytes, more than"),
    ({}, "prompt or messages missing"),
    ({"prompt": ""}, "the prompt is empty"),
    ({"prompt": 3}, "prompt is a number"),
    ({"prompt": "\ud800"}, "half a character"),
    ({"prompt": "x", "messages": ASK}, "one of prompt and messages"),
    ({"prompt": "x", "max_token": 3}, "unknown parameter 'max_token'; did you mean 'max_tokens'?"),
    ({"prompt": "x", "max_tokens": "3"}, "max_tokens is a text"),
    ({"prompt": "x", "max_tokens": 0}, "max_tokens is 0"),
    ({"prompt": "x", "temperature": -1}, "temperature is -1"),
    ({"prompt": "x", "temperature": True}, "temperature is a boolean"),
    ({"prompt": "x", "max_tokens": 3, "max_completion_tokens": 3}, "cannot be used together"),
    ({"prompt": "x", "stop": [1]}, "stop is a number"),
    ({"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias must map"),
    ({"prompt": "x", "json_schema": {"type": "nonsense"}}, "schema is refused"),
    ({"prompt": "x", "json_schema": 3}, "must be a JSON schema"),
    ({"prompt": "x", "regex": "("}, "regular expression"),
    ({"prompt": "x" * 600}, "tokens but the context holds"),
    ({"messages": []}, "at least one"),
    ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content is missing"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text can be read"),
    ({"url": CHAT}, "custom_id and body missing"),
    (line({}), "messages must be a list"),
    (line(3), "body must be an object"),
    (line({"messages": ASK}, "/v1/images"), "url is '/v1/images'"),
    (line({"messages": ASK}, 3), "url is 3"),
    (line({"messages": ASK}, method="GET"), "method is 'GET'"),
    (line({"messages": ASK}, more=1), "unknown field 'more'"),
    (line({"messages": ASK}, custom_id=None), "custom_id missing"),
    (line({"messages": ASK}, custom_id=["a"]), "custom_id is a list"),
    (chat(stream=True), "nobody reads a batch as it comes"),
    (chat(n=0), "n is 0"),
    (chat(top_logprobs=3), "top_logprobs"),
    (chat(temprature=1), "unknown parameter 'temprature'; did you mean 'temperature'?"),
    (chat(response_format={"type": "xml"}), "response_format.type is 'xml'"),
    (chat(response_format={"type": "json_schema"}), "schema is missing"),
    (line({"prompt": ["a", "b"]}, "/v1/completions"), "one text, or a list of token ids"),
    (line({"prompt": [9999]}, "/v1/completions"), "outside the vocabulary"),
    (line({"input": []}, "/v1/embeddings"), "none of them empty"),
    (line({"input": "x", "dims": 3}, "/v1/embeddings"), "unknown parameter 'dims'"),
    (line({"input": "x", "dimensions": 0}, "/v1/embeddings"), "dimensions is 0"),
    (line({"input": "x", "dimensions": 99}, "/v1/embeddings"), "dimensions is 99, but this model has 8"),
    (line({"input": "x" * 600}, "/v1/embeddings"), "tokens but the context holds"),
]


def test_every_bad_row_is_in_the_errors(job: Any) -> None:
    """Good rows between them are answered; each bad one is named by its line, and says why."""
    good = {"prompt": "hello"}
    job.write(*(row for bad, _ in BAD for row in (bad, b"", good)))
    report = job.run()
    assert (report.n_rows, report.n_done, report.n_failed) == (2 * len(BAD), len(BAD), len(BAD))
    assert report.complete
    errors = sorted(job.lines("out.errors.jsonl"), key=lambda line: line["index"])
    for i, (error, (_, why)) in enumerate(zip(errors, BAD, strict=True)):
        message = error["error"]["message"]
        assert error["index"] == 2 * i
        assert message.startswith(f"line {3 * i + 1}: "), message
        assert why in message
        assert (error["response"], error["error"]["line"], error["error"]["code"]) == (None, 3 * i + 1, "invalid_row")
        assert len(message) < 500
    assert {line["custom_id"] for line in errors} == {None, "a"}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
_NAMES = ["prompt", "messages", "max_tokens", "temperature", "stop", "seed", "n", "logit_bias", "json_schema", "regex"]
_NAMES += ["response_format", "logprobs", "top_logprobs", "custom_id", "id", "system", "metadata", "stream", "model"]
_MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool"])}, optional={"content": _JSON})
_VALUES = _JSON | st.text(min_size=1, max_size=8) | st.integers(0, 20) | st.lists(_MESSAGE, min_size=1, max_size=2)
_BODY = st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=5)
_URLS = st.sampled_from([CHAT, "/v1/completions", "/v1/embeddings"]) | _JSON
_LINES = st.fixed_dictionaries({"custom_id": st.text(max_size=4) | _JSON, "url": _URLS, "body": _BODY | _JSON})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(_BODY | _LINES | _JSON, min_size=1, max_size=20))
def test_whatever_the_rows_are_the_job_goes_on(job: Any, rows: list[Any]) -> None:
    """Each has a result or an error, and none ends the job."""
    job.write(*rows, {"prompt": "hello"})
    report = job.run(restart=True)
    assert report.complete
    assert report.n_done + report.n_failed == len(rows) + 1
    assert report.n_done >= 1
    assert not [line for line in job.lines("out.errors.jsonl") if line["error"]["code"] != "invalid_row"]


def test_a_bug_that_one_row_brings_out_does_not_stop_the_others(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = job.llm.submit

    def buggy(prompt: Any, *more: Any, **options: Any) -> Any:
        if prompt[0]["content"] == "b":
            raise ZeroDivisionError("a bug")
        return submit(prompt, *more, **options)

    monkeypatch.setattr(job.llm, "submit", buggy)
    job.write({"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"})
    assert job.run().n_done == 2
    assert job.errors == ["line 2: ZeroDivisionError: a bug"]


def test_a_model_without_a_template_ends_the_job_at_once(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job.llm, "has_template", False)
    job.write({"prompt": "hello"})
    with pytest.raises(UnsupportedModel, match="--raw"):
        job.run()
    assert job.errors == []
    monkeypatch.undo()
    assert job.run().n_done == 1
