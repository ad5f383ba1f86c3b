"""Typed access to JSON that nobody vouches for: each getter answers a value of its type, or says which is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgeinfer.errors import FormatError

__all__ = ["Fields"]

_HUGE = 1e300


class Fields:
    """An object of a JSON file. ``where`` names the file and the way to this object, for messages."""

    def __init__(self, content: dict[str, Any], where: str) -> None:
        self._content = content
        self.where = where

    @classmethod
    def of(cls, content: object, where: str) -> Fields:
        if not isinstance(content, dict):
            raise FormatError(f"{where} must be an object")
        return cls(content, where)

    @property
    def names(self) -> list[str]:
        return list(self._content)

    def wrong(self, key: str, what: str) -> FormatError:
        return FormatError(f"{self.where}: {key[:80]} {what}")

    def get(self, key: str) -> object:
        return self._content.get(key)

    def fields(self, key: str) -> Fields:
        return Fields.of(self._content.get(key), f"{self.where}: {key[:80]}")

    def each(self) -> Iterator[tuple[str, Fields]]:
        """All members, each of which must be an object."""
        for name in self._content:
            yield name, self.fields(name)

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "must be text")
        return value

    def choice(self, key: str, known: Sequence[str]) -> str:
        value = self.text(key)
        if value not in known:
            raise self.wrong(key, f"is {value[:80]!r}, but must be one of {', '.join(known)}")
        return value

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return value

    def integer(self, key: str, *, low: int = 0, high: int = 1 << 62) -> int:
        return self._integer(key, self.get(key), low, high)

    def _integer(self, key: str, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(key, f"must be an integer from {low} to {high}")
        return value

    def number(self, key: str, *, above: float | None = None) -> float:
        value = self._number(key, self.get(key))
        if above is not None and value <= above:
            raise self.wrong(key, f"is {value}, but must be above {above}")
        return value

    def _number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not -_HUGE < value < _HUGE:
            raise self.wrong(key, "must be a finite number")
        return float(value)

    def _array(self, key: str) -> list[Any]:
        value = self.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "must be an array")
        return value

    def integers(self, key: str, *, low: int = 0) -> list[int]:
        return [self._integer(key, value, low, 1 << 62) for value in self._array(key)]

    def numbers(self, key: str) -> list[float]:
        return [self._number(key, value) for value in self._array(key)]

    def texts(self, key: str) -> list[str]:
        values = self._array(key)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "must be an array of text")
        return values
