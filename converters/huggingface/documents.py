"""JSON files that nobody vouches for: read within limits, and typed access to what is in them. Knows no model."""

from __future__ import annotations

import json
import math
from collections.abc import ItemsView, Mapping
from pathlib import Path
from typing import Any

from edgeinfer.errors import FormatError
from edgeinfer.gguf.header import open_regular, shown

__all__ = ["MAX_JSON_BYTES", "Fields", "parse_object", "read_object"]

MAX_JSON_BYTES = 128 << 20
"""The largest tokenizers of today need about 35 MB."""


def read_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Raises `FormatError` for anything else, `ModelNotFound` where there is no file."""
    with open_regular(path) as stream:
        data = stream.read(max_bytes + 1) or b""
        while len(data) <= max_bytes and (more := stream.read(max_bytes + 1 - len(data))):
            data += more
    if len(data) > max_bytes:
        raise FormatError(f"{path} is larger than the {max_bytes >> 20} MiB that are accepted")
    return parse_object(data, str(path))


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in ``data``; ``where`` names it in messages. A name that occurs twice is refused: two readers
    could take different ones."""
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise FormatError(f"{where} is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise FormatError(f"{where} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{where} must hold a JSON object, not {type(content).__name__}")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {shown(twice)} occurs twice in one object")
    return made


class Fields:
    """A JSON object whose values are asked for by type. A value that is null counts as missing. ``where`` names the
    object in messages."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self._content = content
        self.where = where

    @property
    def content(self) -> Mapping[str, Any]:
        return self._content

    def items(self) -> ItemsView[str, Any]:
        return self._content.items()

    def __contains__(self, key: str) -> bool:
        return self._content.get(key) is not None

    def raw(self, key: str) -> Any:
        return self._content.get(key)

    def is_null(self, key: str) -> bool:
        """Whether the value is there and null, which for some settings means "none" and not "the default"."""
        return key in self._content and self._content[key] is None

    def wrong(self, key: str, what: str) -> FormatError:
        return FormatError(f"{self.where}: {shown(key)} {what}")

    def with_defaults(self, defaults: Mapping[str, Any]) -> Fields:
        """The same, where ``defaults`` stand in for what is missing."""
        given = {key: value for key, value in self._content.items() if value is not None}
        return Fields({**defaults, **given}, self.where)

    def fields(self, key: str) -> Fields:
        """An object inside; an empty one where it is missing."""
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "must be an object")
        return Fields(value or {}, f"{self.where}: {key}")

    def first(self, *keys: str) -> str:
        """The first of these names that has a value; the last where none has."""
        return next((key for key in keys if key in self), keys[-1])

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = 1 << 31) -> int:
        value = self.raw(key)
        value = default if value is None else value
        if value is None:
            raise self.wrong(key, "is missing")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(key, f"is {shown(repr(value))}, but must be an integer from {low} to {high}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.raw(key)
        value = default if value is None else value
        if value is None:
            raise self.wrong(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(key, f"is {shown(repr(value))}, but must be a finite number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.raw(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, f"is {shown(repr(value))}, but must be true or false")
        return default if value is None else value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.raw(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.wrong(key, "is missing" if value is None else "must be text")
        return value

    def array(self, key: str) -> list[Any]:
        """An empty one where it is missing."""
        value = self.raw(key)
        if value is not None and not isinstance(value, list):
            raise self.wrong(key, "must be an array")
        return value or []

    def numbers(self, key: str) -> list[float]:
        values = self.array(key)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise self.wrong(key, "must be an array of finite numbers")
        return [float(value) for value in values]

    def texts(self, key: str) -> list[str]:
        values = self.array(key)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "must be an array of text")
        return values
