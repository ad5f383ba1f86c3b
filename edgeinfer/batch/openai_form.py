"""OpenAI's batch lines: ``{"custom_id", "method", "url", "body"}`` in, ``{"id", "custom_id", "response", "error"}``
out.

The bodies are those of chat completions, completions, responses and embeddings, without what would differ from run to
run: the time of creation is 0, names follow from the row, and how many tokens were known from before is in the
metrics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.batch import tooled
from edgeinfer.batch.fields import JsonObject, custom_id_of, messages_of, options_of, text_of
from edgeinfer.batch.rows import Computed, Form, Row, RowError, namer
from edgeinfer.bodies.calls import said
from edgeinfer.bodies.output import Output
from edgeinfer.bodies.parts import TokenBytes, chat_choice, finish_word, legacy_logprobs, vector_part
from edgeinfer.core import Answer

__all__ = ["URLS", "chat_body", "completion_body", "embedding_body", "is_openai", "line_of", "read", "response_body"]

URLS: dict[str, Form] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/v1/responses": "response",
}
_LINE = {"custom_id", "method", "url", "body"}
_IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream"}
_SHARED = _IGNORED | {"model", "n", "logprobs"}
_KNOWN: Mapping[Form, set[str]] = {
    "chat": _SHARED | {"messages", "top_logprobs", *tooled.TOOL_FIELDS},
    "completion": _SHARED | {"prompt"},
    "embedding": {"model", "input", "encoding_format", "dimensions", "user"},
}


def is_openai(record: JsonObject) -> bool:
    """Whether this is one of OpenAI's lines, if perhaps a bad one."""
    return "url" in record or "body" in record or "method" in record


def read(record: JsonObject, defaults: Mapping[str, Any], index: int, line: int, key: str, seed: int) -> Row:
    """The row. Raises `RowError` for what is missing, unknown, or not to be had here."""
    for name in record:
        if name not in _LINE:
            raise RowError(f"unknown field {name!r:.60}; a line has custom_id, method, url and body")
    missing = [name for name in ("custom_id", "url", "body") if record.get(name) is None]
    if missing:
        raise RowError(f"{' and '.join(missing)} missing")
    if record.get("method", "POST") != "POST":
        raise RowError(f"method is {record['method']!r:.20}, but must be POST")
    form = URLS.get(record["url"]) if isinstance(record["url"], str) else None
    if form is None:
        raise RowError(f"url is {record['url']!r:.60}, but must be one of {', '.join(URLS)}")
    body = record["body"]
    if not isinstance(body, dict):
        raise RowError("body must be an object")
    if body.get("stream"):
        raise RowError("stream is true, but nobody reads a batch as it comes")
    model = text_of(body["model"], "model") if body.get("model") is not None else None
    custom_id = custom_id_of(record, "custom_id")
    if form == "response":
        prompt, options, names = tooled.read_response(body, defaults, seed)
        return Row(index, line, key, form, prompt, custom_id, options, names=names, body=body, model=model)
    prompt, options, n = _READERS[form](body, defaults, seed)
    if form == "embedding":
        return Row(index, line, key, form, "", custom_id, options, texts=prompt, model=model)
    tools = {name: body[name] for name in tooled.TOOL_FIELDS if form == "chat" and body.get(name) is not None}
    names = tooled.read_tools(body, options) if tools else ()
    return Row(index, line, key, form, prompt, custom_id, options, n, names=names, body=tools, model=model)


def _chat(body: JsonObject, defaults: Mapping[str, Any], seed: int) -> tuple[Any, dict[str, Any], int]:
    messages = messages_of(body.get("messages"))
    options, n = options_of(body, defaults, seed, _KNOWN["chat"])
    wanted, top = body.get("logprobs"), body.get("top_logprobs")
    if wanted not in (None, True, False):
        raise RowError("logprobs must be true or false")
    if top is not None and not (type(top) is int and 0 <= top <= 20 and wanted):
        raise RowError("top_logprobs must be between 0 and 20, together with logprobs: true")
    options["logprobs"] = (top or 0) if wanted else None
    return messages, options, n


def _completion(body: JsonObject, defaults: Mapping[str, Any], seed: int) -> tuple[Any, dict[str, Any], int]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and all(type(token_id) is int for token_id in prompt):
        if not all(0 <= token_id < 2**31 for token_id in prompt):
            raise RowError("prompt holds what is no token id")
    elif not isinstance(prompt, str) or not text_of(prompt, "prompt"):
        raise RowError("prompt must be one text, or a list of token ids")
    options, n = options_of(body, defaults, seed, _KNOWN["completion"])
    top = body.get("logprobs")
    if top is not None and not (type(top) is int and 0 <= top <= 5):
        raise RowError("logprobs must be between 0 and 5")
    options["logprobs"] = top
    return prompt, options, n


def _embedding(body: JsonObject, _defaults: Mapping[str, Any], _seed: int) -> tuple[Any, dict[str, Any], int]:
    for name in body:
        if name not in _KNOWN["embedding"]:
            raise RowError(f"unknown parameter {name!r:.60} of an embedding")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise RowError(f"encoding_format is {encoding!r:.40}, but must be float or base64")
    texts = [body.get("input")] if isinstance(body.get("input"), str) else body.get("input")
    if not isinstance(texts, list) or not texts or not all(text_of(text, "input") for text in texts):
        raise RowError("input must be a text or a list of texts, none of them empty")
    options = {"encoding_format": encoding}
    n = body.get("dimensions")
    if n is not None:
        if type(n) is not int or not 1 <= n < 2**31:
            raise RowError(f"dimensions is {n!r:.40}, but must be a whole number, at least 1")
        options["dimensions"] = n
    return texts, options, 1


_READERS = {"chat": _chat, "completion": _completion, "embedding": _embedding}


# ---- results


def line_of(row: Row, computed: Computed) -> dict[str, Any]:
    """The line of the output."""
    request_id = f"req_{row.index}_{row.key}"
    response = {"status_code": 200, "request_id": request_id, "body": computed.body}
    return {"id": row.name, "custom_id": row.custom_id, "response": response, "error": None}


def _head(row: Row, prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{row.index}-{row.key}", "object": kind, "created": 0, "model": model}


def _usage(answers: Sequence[Answer]) -> dict[str, int]:
    n_prompt, n_new = answers[0].stats.n_prompt, sum(answer.stats.n_generated for answer in answers)
    return {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new}


def chat_body(row: Row, answers: Sequence[Answer], model: str, text: TokenBytes) -> dict[str, Any]:
    """A ``chat.completion``."""
    choices = []
    for i, answer in enumerate(answers):
        parts = said(answer.text, row.names, functools.partial(namer(row, i), "call"))
        choices.append(chat_choice(i, answer, parts, text))
    return {**_head(row, "chatcmpl", "chat.completion", model), "choices": choices, "usage": _usage(answers)}


def completion_body(row: Row, answers: Sequence[Answer], model: str, text: TokenBytes) -> dict[str, Any]:
    """A ``text_completion``."""
    choices = [
        {
            "index": i,
            "text": answer.text,
            "logprobs": legacy_logprobs(answer.tokens, text, 0),
            "finish_reason": finish_word(answer),
        }
        for i, answer in enumerate(answers)
    ]
    return {**_head(row, "cmpl", "text_completion", model), "choices": choices, "usage": _usage(answers)}


def response_body(row: Row, answers: Sequence[Answer], model: str, text: TokenBytes) -> dict[str, Any]:
    """A ``response``."""
    from edgeinfer.bodies.responses import ended_part

    (answer,) = answers
    output = Output(text, row.names, namer(row))
    for token in answer.tokens:
        output.feed(token)
    output.end(cut=answer.finish_reason != "stop")
    settled = dataclasses.replace(answer, stats=dataclasses.replace(answer.stats, n_reused=0))
    head = {"id": f"resp-{row.index}-{row.key}", "created_at": 0, "model": model}
    described = tooled.response_body_of(row.body).described()
    return {**head, **described, **ended_part(settled, 0), "output": output.items}


def embedding_body(row: Row, vectors: npt.NDArray[np.float32], n_tokens: int, model: str) -> dict[str, Any]:
    """A ``list`` of embeddings, one a text. Raises `BodyError` for more dimensions than there are."""
    form = (row.options.get("dimensions"), row.options.get("encoding_format"))
    data = [
        {"object": "embedding", "index": i, "embedding": vector_part(vector, *form)} for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}
