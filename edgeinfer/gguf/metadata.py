"""The key-value part of a GGUF file: where each value lies, decoded when it is asked for. Knows no key's meaning."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import FormatError
from edgeinfer.gguf.formats import NUMBER_DTYPES, ValueType
from edgeinfer.gguf.header import MAX_ARRAY, HeaderCursor, shown

__all__ = ["Metadata", "Value", "read_metadata"]

Value = Union[str, int, float, bool, "list[str]", npt.NDArray[np.generic]]

_MAX_KEY_BYTES = (1 << 16) - 1


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where one value lies in the header. ``start`` is its first byte, or that of the first element of an array."""

    kind: ValueType
    element: ValueType | None
    count: int
    start: int
    end: int


class Metadata(Mapping[str, Value]):
    """The key-value part of a file. Values are decoded when they are asked for: numeric arrays as NumPy arrays,
    string arrays as lists, text that is not UTF-8 with replacement characters. The typed getters raise `FormatError`
    where a key is missing (and no default given) or of another type."""

    def __init__(self, path: Path, data: bytes, stored: Mapping[str, _Stored]) -> None:
        self._path = path
        self._data = data
        self._stored = stored

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __contains__(self, key: object) -> bool:
        return key in self._stored

    def __getitem__(self, key: str) -> Value:
        at = self._stored[key]
        if at.element is ValueType.STRING:
            return [raw.decode("utf-8", "replace") for raw in self.raw_strings(key)]
        if at.element is not None:
            return np.frombuffer(self._data, NUMBER_DTYPES[at.element], at.count, at.start)
        if at.kind is ValueType.STRING:
            return self._data[at.start : at.end].decode("utf-8", "replace")
        value: int | float | bool = np.frombuffer(self._data, NUMBER_DTYPES[at.kind], 1, at.start)[0].item()
        return value

    def _missing(self, key: str, want: str) -> FormatError:
        at = self._stored.get(key)
        if at is None:
            return FormatError(f"{self._path} has no metadata key {shown(key)} ({want})")
        kind = at.kind.name.lower() if at.element is None else f"array of {at.element.name.lower()}"
        return FormatError(f"{self._path}: metadata key {shown(key)} is of type {kind}, but must be {want}")

    def kind(self, key: str) -> ValueType | None:
        """The stored type of a value, None where the key is missing."""
        at = self._stored.get(key)
        return at.kind if at else None

    def element_type(self, key: str) -> ValueType | None:
        """The element type of an array, None for anything else."""
        at = self._stored.get(key)
        return at.element if at else None

    def count(self, key: str) -> int:
        """The length of an array, 0 where the key is missing. Costs nothing. Raises `FormatError` where it is no
        array."""
        at = self._stored.get(key)
        if at is not None and at.element is None:
            raise self._missing(key, "an array")
        return at.count if at else 0

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self._missing(key, "text")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._missing(key, "an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._missing(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self._missing(key, "true or false")
        return value

    def numbers(self, key: str) -> npt.NDArray[np.generic]:
        value = self.get(key)
        if not isinstance(value, np.ndarray):
            raise self._missing(key, "an array of numbers")
        return value

    def strings(self, key: str) -> list[str]:
        value = self.get(key)
        if not isinstance(value, list):
            raise self._missing(key, "an array of text")
        return value

    def raw_strings(self, key: str) -> Iterator[bytes]:
        """The elements of a string array as bytes, one at a time. Raises `FormatError` at once."""
        at = self._stored.get(key)
        if at is None or at.element is not ValueType.STRING:
            raise self._missing(key, "an array of text")
        return self._walk(at)

    def _walk(self, at: _Stored) -> Iterator[bytes]:
        data, pos, unpack = self._data, at.start, struct.Struct("<Q").unpack_from
        for _ in range(at.count):
            end = pos + 8 + unpack(data, pos)[0]
            yield data[pos + 8 : end]
            pos = end

    def raw_span(self, key: str) -> memoryview:
        """The bytes of an array as stored; empty where the key is missing. A view into the header."""
        at = self._stored.get(key)
        return memoryview(self._data)[at.start : at.end] if at else memoryview(b"")

    def stored(self, key: str) -> bytes:
        """A value as the file has it, its type in front: to be written to another file unchanged. Raises
        `KeyError`."""
        at = self._stored[key]
        head = struct.pack("<I", at.kind)
        if at.element is not None:
            head += struct.pack("<IQ", at.element, at.count)
        elif at.kind is ValueType.STRING:
            head += struct.pack("<Q", at.end - at.start)
        return head + self._data[at.start : at.end]


def read_metadata(cursor: HeaderCursor, n_keys: int) -> Metadata:
    """Step over ``n_keys`` pairs, proving that each lies inside the file. Raises `FormatError`."""
    stored: dict[str, _Stored] = {}
    for index in range(n_keys):
        at = cursor.pos
        key = cursor.string(f"metadata key {index}", _MAX_KEY_BYTES)
        if not key:
            cursor.fail(f"metadata key {index} is empty", at)
        if key in stored:
            cursor.fail(f"metadata key {shown(key)} appears twice", at)
        stored[key] = _read_value(cursor, f"the value of {shown(key)}")
    return Metadata(cursor.path, bytes(cursor.data[: cursor.pos]), stored)


def _read_value(cursor: HeaderCursor, what: str) -> _Stored:
    kind = cursor.value_type(what)
    if kind is ValueType.ARRAY:
        return _read_array(cursor, what)
    if kind is ValueType.STRING:
        start = cursor.string_span(what)
        return _Stored(kind, None, 1, start, cursor.pos)
    start = cursor.span(NUMBER_DTYPES[kind].itemsize, what)
    if kind is ValueType.BOOL:
        _check_bools(cursor, start, what)
    return _Stored(kind, None, 1, start, cursor.pos)


def _read_array(cursor: HeaderCursor, what: str) -> _Stored:
    element, count = cursor.value_type(what), cursor.u64(f"the length of {what}")
    if element is ValueType.ARRAY:
        cursor.fail(f"{what} is an array of arrays, which no model uses and llama.cpp refuses too")
    if count > MAX_ARRAY:
        cursor.fail(f"{what} claims {count} elements, more than the {MAX_ARRAY} that are accepted", cursor.pos - 8)
    start = cursor.pos
    if element is ValueType.STRING:
        if count * 8 > cursor.size - start:  # each has a length of 8 bytes
            cursor.fail(f"{what} claims {count} strings, but {cursor.size - start} bytes are left", start - 8)
        cursor.skip_strings(count, what)
    else:
        cursor.span(count * NUMBER_DTYPES[element].itemsize, what)
        if element is ValueType.BOOL:
            _check_bools(cursor, start, what)
    return _Stored(ValueType.ARRAY, element, count, start, cursor.pos)


def _check_bools(cursor: HeaderCursor, start: int, what: str) -> None:
    if cursor.data[start : cursor.pos].strip(b"\0\1"):
        cursor.fail(f"{what} is neither true nor false", start)
