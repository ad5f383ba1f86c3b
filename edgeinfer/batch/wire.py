"""Rows as requests of OpenAI's API, and its answers as results. Answers come from anybody: what is not one is told.

Results hold nothing that differs from run to run: ids are ours, the time of creation is 0, and what a server adds about
its times and caches is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from edgeinfer.batch.rows import Computed, Row, namer
from edgeinfer.core import GenerationStats, Grammar
from edgeinfer.errors import EngineError, UsageError

__all__ = ["answer_of", "body_of", "error_of", "parsed"]

_SAME = {
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "ignore_eos",
}
"""Options that go out under their own names, as llama.cpp's server and ours have them."""
_VARYING = ("timings", "service_tier", "system_fingerprint", "metrics", "kv_transfer_params")
_ITEMS = {"message": "msg", "function_call": "fc", "reasoning": "rs"}
_SHOWN = 300

# ---- requests


def body_of(row: Row, model: str) -> tuple[str, dict[str, Any]]:
    """(path, body). Raises `UsageError` for an option that no server has a name for."""
    if row.form == "embedding":
        return "/embeddings", {"model": model, "input": list(row.texts), **row.options}
    if row.form == "response":
        return "/responses", _response_of(row, model)
    is_chat = row.form == "chat" or (row.form == "plain" and not _is_raw(row.prompt))
    body: dict[str, Any] = {"model": model}
    body["messages" if is_chat else "prompt"] = row.prompt if isinstance(row.prompt, str) else list(row.prompt)
    if row.n > 1:
        body["n"] = row.n
    for name, value in row.options.items():
        if value is not None and value != () and value != {}:
            if name == "tools" or (name == "grammar" and _demands(row)):
                continue  # they follow from the row's body
            body.update(_field(name, value, is_chat=is_chat))
    body.update(row.body)
    if body.get("temperature") == 0:
        body.pop("seed", None)  # means nothing then, and some servers refuse it
    return ("/chat/completions" if is_chat else "/completions"), body


def _response_of(row: Row, model: str) -> dict[str, Any]:
    """The row's own body under what the job says. This API knows no seeds: one goes out only where the row has it."""
    body = {name: value for name, value in row.body.items() if value is not None} | {"model": model}
    for name, value in row.options.items():
        if value in (None, (), {}) or name in ("seed", "tools", "grammar", "logprobs", "on_overflow"):
            continue
        for said, given in _field(name, value, is_chat=True).items():
            body.setdefault("max_output_tokens" if said == "max_tokens" else said, given)
    grammar, text = row.options.get("grammar"), body.get("text") or {}
    if grammar is None or _demands(row) or "regex" in body or "format" in text:
        return body
    if grammar.kind == "json_schema":
        wanted = {"type": "json_schema", "name": "answer", "schema": json.loads(grammar.source)}
        return {**body, "text": {**text, "format": wanted}}
    return {**body, **_format(grammar)}


def _demands(row: Row) -> bool:
    """Whether its grammar is that of a call, which follows from its body."""
    return row.body.get("tool_choice") not in (None, "auto", "none")


def _is_raw(prompt: Any) -> bool:
    return isinstance(prompt, str) or all(isinstance(part, int) for part in prompt)


def _field(name: str, value: Any, *, is_chat: bool) -> dict[str, Any]:
    if name in _SAME:
        return {name: value}
    if name == "seed":
        return {"seed": value % 2**63}
    if name == "stop":
        return {"stop": list(value)}
    if name == "logit_bias":
        return {"logit_bias": {str(token_id): bias for token_id, bias in value.items()}}
    if name == "penalty_last_n":
        return {"repeat_last_n": value}
    if name == "logprobs":
        return ({"logprobs": True} | ({"top_logprobs": value} if value else {})) if is_chat else {"logprobs": value}
    if name == "grammar":
        return _format(value)
    raise UsageError(f"{name} cannot be asked of an endpoint")


def _format(grammar: Grammar) -> dict[str, Any]:
    if grammar.kind == "json_schema":
        schema = json.loads(grammar.source)
        if schema == {"type": "object"}:
            return {"response_format": {"type": "json_object"}}
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
    if grammar.kind == "lark":
        raise UsageError("a Lark grammar cannot be asked of an endpoint; give a JSON schema or a regular expression")
    return {"regex" if grammar.kind == "regex" else "grammar": grammar.source}


# ---- answers


def parsed(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises `EngineError`."""
    try:
        found = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"the server's answer is not JSON ({error}): {_shown(data)}") from None
    if not isinstance(found, dict):
        raise EngineError(f"the server's answer is not an object: {_shown(data)}")
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def error_of(data: bytes) -> str:
    """What an answer that is an error says."""
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        return _shown(data)
    for name in ("error", "message", "detail"):
        inner = found.get(name) if isinstance(found, dict) else None
        if inner:
            found = inner
    return " ".join(found.split())[:_SHOWN] if isinstance(found, str) else _shown(data)


def _shown(data: bytes) -> str:
    return " ".join(data[: 4 * _SHOWN].decode("utf-8", "replace").split())[:_SHOWN] or "(nothing)"


def answer_of(row: Row, body: dict[str, Any], times: Mapping[str, Any]) -> Computed:
    """What came of the row. ``times``: fields of `GenerationStats`. Raises `EngineError` where this is no answer to
    it."""
    stats = GenerationStats(**_counts(body.get("usage")), **times)
    if row.form == "embedding":
        data = _listed(body, "data", len(row.texts))
        if not all(isinstance(one.get("embedding"), list | str) for one in data):
            raise EngineError("the server's answer holds no embeddings")
        return Computed(_settled(body, None), stats)
    if row.form == "response":
        return Computed(_settled_response(row, body), stats)
    choices = sorted(_listed(body, "choices", row.n), key=lambda choice: _index(choice))
    texts = [_text(choice) for choice in choices]
    if row.form == "plain":
        return Computed(_plain(row, choices[0], texts[0], stats), stats)
    for i, choice in enumerate(choices):
        _name_calls(choice.get("message"), namer(row, i))
    prefix = "chatcmpl" if row.form == "chat" else "cmpl"
    return Computed(_settled({**body, "choices": choices}, f"{prefix}-{row.index}-{row.key}"), stats)


def _counts(usage: object) -> dict[str, int]:
    found = usage if isinstance(usage, dict) else {}
    details = found.get("prompt_tokens_details", found.get("input_tokens_details"))
    n_prompt = _count(found.get("prompt_tokens", found.get("input_tokens")))
    n_new = _count(found.get("completion_tokens", found.get("output_tokens")))
    n_reused = min(n_prompt, _count(details.get("cached_tokens")) if isinstance(details, dict) else 0)
    return {"n_prompt": n_prompt, "n_reused": n_reused, "n_prefilled": n_prompt - n_reused, "n_generated": n_new}


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**53 else 0


def _listed(body: Mapping[str, Any], name: str, n: int) -> list[dict[str, Any]]:
    found = body.get(name)
    if not isinstance(found, list) or len(found) != n or not all(isinstance(one, dict) for one in found):
        n_found = len(found) if isinstance(found, list) else "no"
        raise EngineError(f"the server's answer has {n_found} {name}, where {n} were asked for")
    return found


def _index(choice: Mapping[str, Any]) -> int:
    index = choice.get("index", 0)
    return index if type(index) is int else 0


def _text(choice: Mapping[str, Any]) -> str:
    """A message may be without content: all that was allowed went into thinking, say."""
    message = choice.get("message")
    text = choice.get("text") if message is None else message.get("content", "") if isinstance(message, dict) else 0
    if text is None and message is not None:
        text = ""
    if not isinstance(text, str):
        raise EngineError("the server's answer has a choice without text")
    return text


def _settled(body: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    found = {key: value for key, value in body.items() if key not in _VARYING}
    if name is not None:
        found |= {"id": name, "created": 0}
    else:
        found.pop("id", None)
        found.pop("created", None)
    if isinstance(usage := found.get("usage"), dict):
        found["usage"] = {key: value for key, value in usage.items() if key != "prompt_tokens_details"}
    return found


def _name_calls(message: object, named: Callable[[str], str]) -> None:
    """Names that follow from the row, in place of those that a server makes up."""
    for call in _dicts(message.get("tool_calls")) if isinstance(message, dict) else []:
        if "id" in call:
            call["id"] = named("call")


def _settled_response(row: Row, body: Mapping[str, Any]) -> dict[str, Any]:
    output = body.get("output")
    if not isinstance(output, list) or not all(isinstance(item, dict) for item in output):
        raise EngineError("the server's answer has no output")
    if body.get("status") == "failed":
        raise EngineError(f"the server could not answer: {error_of(json.dumps(body).encode())}")
    found = {key: value for key, value in body.items() if key not in _VARYING}
    named, items = namer(row), []
    for item in output:
        names = {"id": named(_ITEMS.get(item.get("type"), "item"))} if "id" in item else {}
        if "call_id" in item:
            names["call_id"] = named("call")
        items.append({**item, **names})
    found |= {"id": f"resp-{row.index}-{row.key}", "created_at": 0, "output": items}
    if "completed_at" in found:
        found["completed_at"] = 0
    usage = found.get("usage")
    if isinstance(usage, dict) and isinstance(details := usage.get("input_tokens_details"), dict):
        found["usage"] = {**usage, "input_tokens_details": {**details, "cached_tokens": 0}}
    return found


def _plain(row: Row, choice: Mapping[str, Any], text: str, stats: GenerationStats) -> dict[str, Any]:
    reason = choice.get("finish_reason")
    body: dict[str, Any] = {
        "text": text,
        "finish_reason": reason if isinstance(reason, str) else "stop",
        "usage": {"prompt_tokens": stats.n_prompt, "completion_tokens": stats.n_generated},
    }
    if row.options.get("logprobs") is not None:
        body["logprobs"] = _logprobs(choice.get("logprobs"))
    return body


def _logprobs(found: object) -> list[dict[str, Any]]:
    """Of a chat or a completion, as plain lines have them, but for the ids of tokens, which servers do not tell."""
    if not isinstance(found, dict):
        return []
    content = found.get("content")
    if isinstance(content, list):
        return [
            {**_entry(one), "top": [_entry(top) for top in _dicts(one.get("top_logprobs"))]} for one in _dicts(content)
        ]
    texts, logprobs, tops = (found.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not (isinstance(texts, list) and isinstance(logprobs, list) and isinstance(tops, list)):
        return []
    tops = [top if isinstance(top, dict) else {} for top in tops] + [{}] * len(texts)
    return [
        {"text": text, "logprob": logprob, "top": [{"text": t, "logprob": p} for t, p in top.items()]}
        for text, logprob, top in zip(texts, logprobs, tops, strict=False)
    ]


def _dicts(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _entry(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": one.get("token"), "logprob": one.get("logprob")}
