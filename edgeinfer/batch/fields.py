"""Parameters of a row, checked: from JSON values by the names that OpenAI's API, llama.cpp and we give them to options
of a request. What is unknown or of a wrong type is a `RowError` that names it; ranges are `SamplingParams`' matter."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from edgeinfer.batch.rows import RowError
from edgeinfer.core import Grammar
from edgeinfer.errors import UsageError
from edgeinfer.options import RequestOptions

__all__ = ["JsonObject", "custom_id_of", "messages_of", "options_of", "parse_object", "text_of"]

JsonObject = Mapping[str, Any]
_ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_N = 16


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object from the bytes of a line. Raises `RowError`."""
    try:
        found = json.loads(data.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8: byte {error.start} of the line is {data[error.start]:#04x}") from None
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise RowError("not JSON that can be read: nested too deeply") from None
    except ValueError as error:  # an integer of absurd length
        raise RowError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RowError(f"a JSON {_kind(found)}, but a row must be an object")
    return found


def _no_constant(word: str) -> None:
    raise RowError(f"not JSON: {word} is no number")


def _kind(value: object) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def text_of(value: object, where: str) -> str:
    """A text that can be written as UTF-8. Raises `RowError`."""
    if not isinstance(value, str):
        raise RowError(f"{where} is a {_kind(value)}, but must be a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"{where} holds half a character (a lone surrogate)") from None
    return value


def custom_id_of(record: JsonObject, *names: str) -> str | None:
    """The first of the fields ``names`` that is there, as a text; a whole number will do."""
    for name in names:
        value = record.get(name)
        if type(value) is int:
            return str(value)
        if value is not None:
            return text_of(value, name)
    return None


def messages_of(value: object, where: str = "messages") -> list[dict[str, Any]]:
    """Messages of a conversation, parts of text joined. Raises `RowError`."""
    if not isinstance(value, list) or not value:
        raise RowError(f"{where} must be a list of messages, with at least one")
    return [_message(message, f"{where}[{i}]") for i, message in enumerate(value)]


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RowError(f"{where} is a {_kind(message)}, but must be an object with 'role' and 'content'")
    if message.get("role") not in _ROLES:
        raise RowError(f"{where}.role is {message.get('role')!r:.40}, but must be one of {', '.join(_ROLES)}")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    elif content is not None:
        content = text_of(content, f"{where}.content")
    elif "tool_calls" not in message:
        raise RowError(f"{where}.content is missing")
    if message.get("tool_calls") is not None:
        _check_calls(message["tool_calls"], f"{where}.tool_calls")
    return {**message, "content": content}


def _check_calls(calls: object, where: str) -> None:
    for i, call in enumerate(calls if isinstance(calls, list) else [None]):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise RowError(f"{where}[{i}] must be an object with 'function'")
        for name in ("name", "arguments"):
            text_of(function.get(name), f"{where}[{i}].function.{name}")


def _part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind != "text":
        raise RowError(f"{where} is of type {kind!r:.40}: only text can be read")
    return text_of(part.get("text"), f"{where}.text")


# ---- options

Reader = Callable[[Any, str], Any]


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or abs(value) > 1e300:
        raise RowError(f"{name} is a {_kind(value)}, but must be a number")
    return float(value)


def _whole(value: Any, name: str) -> int:
    if type(value) is not int:
        raise RowError(f"{name} is a {_kind(value)}, but must be a whole number")
    return value


def _flag(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise RowError(f"{name} is a {_kind(value)}, but must be true or false")
    return value


def _stop(value: Any, name: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise RowError(f"{name} must be a text or a list of texts")
    return tuple(text_of(text, name) for text in texts)


def _biases(value: Any, name: str) -> dict[int, float]:
    if not isinstance(value, dict) or not all(key.isascii() and key.isdigit() and len(key) < 10 for key in value):
        raise RowError(f"{name} must map token ids to numbers")
    return {int(key): _number(bias, f"{name}.{key}") for key, bias in value.items()}


def _schema(value: Any, name: str) -> Grammar:
    if not isinstance(value, (dict, bool)):
        raise RowError(f"{name} is a {_kind(value)}, but must be a JSON schema")
    return Grammar("json_schema", json.dumps(value))


def _response_format(value: Any, name: str) -> Grammar | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar("json_schema", '{"type": "object"}')
    if kind != "json_schema":
        raise RowError(f"{name}.type is {kind!r:.40}, but must be text, json_object or json_schema")
    holder = value.get("json_schema")
    if not isinstance(holder, dict) or "schema" not in holder:
        raise RowError(f"{name}.json_schema.schema is missing")
    return _schema(holder["schema"], f"{name}.json_schema.schema")


_READERS: dict[str, tuple[str, Reader]] = {
    "max_tokens": ("max_tokens", _whole),
    "max_completion_tokens": ("max_tokens", _whole),
    "temperature": ("temperature", _number),
    "top_k": ("top_k", _whole),
    "top_p": ("top_p", _number),
    "min_p": ("min_p", _number),
    "typical_p": ("typical_p", _number),
    "repeat_penalty": ("repeat_penalty", _number),
    "repetition_penalty": ("repeat_penalty", _number),
    "frequency_penalty": ("frequency_penalty", _number),
    "presence_penalty": ("presence_penalty", _number),
    "penalty_last_n": ("penalty_last_n", _whole),
    "logit_bias": ("logit_bias", _biases),
    "seed": ("seed", _whole),
    "stop": ("stop", _stop),
    "ignore_eos": ("ignore_eos", _flag),
    "response_format": ("grammar", _response_format),
    "json_schema": ("grammar", _schema),
    "regex": ("grammar", lambda value, name: Grammar("regex", text_of(value, name))),
}
"""A row's parameter -> the option that it sets, and what reads its value."""


def options_of(
    record: JsonObject, defaults: Mapping[str, Any], seed: int, known: Collection[str]
) -> tuple[dict[str, Any], int]:
    """The options of a request: the job's ``defaults`` under what the row says, and how many answers it wants.

    ``known``: the row's other fields, which others read. ``seed`` is for a row to which nobody gives one. Raises
    `RowError` for a parameter that is unknown, wrong or out of range."""
    options = dict(defaults)
    set_by: dict[str, str] = {}
    for name, value in record.items():
        if name in known or value is None:
            continue
        if name not in _READERS:
            raise RowError(f"unknown parameter {name!r:.60}{_close(name, known)}")
        option, read = _READERS[name]
        if option in set_by:
            raise RowError(f"{set_by[option]} and {name} cannot be used together")
        set_by[option] = name
        options[option] = read(value, name)
    n = _whole(record["n"], "n") if "n" in known and record.get("n") is not None else 1
    if not 1 <= n <= MAX_N:
        raise RowError(f"n is {n}, but must be between 1 and {MAX_N}")
    if options.get("seed") is None:
        options["seed"] = seed
    try:
        RequestOptions().updated(options)
    except UsageError as error:
        raise RowError(str(error)) from None
    return options, n


def _close(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, [*_READERS, *known], 1)
    return f"; did you mean {close[0]!r}?" if close else ""
