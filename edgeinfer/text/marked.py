"""Strings that remember which of their characters came from a message. Knows nothing of templates or tokenizers.

A `Marked` string is two strings of one length. Its buffer, which is what C code copies into a result, has stand-ins for
the characters that could be part of a control token: lone surrogates, which no valid text holds, so that nothing a user
sends can imitate one. Its ``_text`` is the real text, and it is what a template's logic sees: comparing, searching,
splitting. Whoever joins strings without knowing of marks joins the buffers, so that a mark can be carried too far but
never be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, SupportsIndex

from edgeinfer.errors import TemplateError

__all__ = ["Marked", "Marks", "join_text", "text_of"]

_FIRST, _MOST = 0xD800, 0x800  # the surrogates


class Marks:
    """The stand-ins for every character that occurs in these texts (a model's control tokens; none: nothing is
    marked)."""

    def __init__(self, texts: Collection[str] = ()) -> None:
        # Quotes and backslashes are always among them, so that JSON escapes can be written by us and left alone by
        # `json`.
        characters = sorted({'"', "\\", *"".join(texts)}) if texts else []
        if len(characters) > _MOST:
            raise TemplateError(
                f"the control tokens of this model use {len(characters)} different characters, "
                f"but at most {_MOST} can be told apart from those of messages"
            )
        self._to_mark = {ord(character): _FIRST + i for i, character in enumerate(characters)}
        self._to_text = {mark: code for code, mark in self._to_mark.items()}

    def mark(self, text: str) -> str:
        """``text`` with all its characters marked. One without any stand-in is marked too: in upper case it may need
        them."""
        text = text_of(text)
        return Marked(text.translate(self._to_mark), text, self) if self._to_mark else text

    def clean(self, text: str) -> str:
        """``text`` without the stand-ins that C code may have copied into it."""
        return text if text.isascii() else text.translate(self._to_text)

    def like(self, results: Callable[[Callable[[Any], Any]], str], *values: Any) -> str:
        """The string that ``results`` makes of something, once from buffers and once from texts.

        ``results`` gets a function that it applies to whatever may be marked. For operations that copy characters, such
        as formatting: where both results have one length they belong together, otherwise the whole result is marked.
        """
        text = results(text_of)
        if not any(isinstance(value, Marked) for value in values):
            return text
        buffer = results(_buffer_of)
        return Marked(buffer, text, self) if len(buffer) == len(text) else self.mark(text)


def text_of(value: Any) -> Any:
    """The real text of a marked string; anything else as it is."""
    return value._text if isinstance(value, Marked) else value


def _buffer_of(value: Any) -> Any:
    return str.__str__(value) if isinstance(value, Marked) else value


def join_text(separator: str, parts: Iterable[str]) -> str:
    """``separator.join(parts)``, marked where any of them is."""
    parts = list(parts)
    marked = next((part for part in (separator, *parts) if isinstance(part, Marked)), None)
    if marked is None:
        return separator.join(parts)
    buffer = str.join(separator, parts)
    return Marked(buffer, text_of(separator).join(map(text_of, parts)), marked._marks)


class Marked(str):
    """A string with marked characters. Every method that templates may call behaves as on the real text."""

    __slots__ = ("_marks", "_text")
    _text: str
    _marks: Marks

    def __new__(cls, buffer: str, text: str, marks: Marks) -> Marked:
        self = super().__new__(cls, buffer)
        self._text = text
        self._marks = marks
        return self

    # Comparing and searching: on the text.

    def __eq__(self, other: object) -> bool:
        return bool(self._text == text_of(other))

    def __ne__(self, other: object) -> bool:
        return bool(self._text != text_of(other))

    def __lt__(self, other: str) -> bool:
        return bool(self._text < text_of(other))

    def __le__(self, other: str) -> bool:
        return bool(self._text <= text_of(other))

    def __gt__(self, other: str) -> bool:
        return bool(self._text > text_of(other))

    def __ge__(self, other: str) -> bool:
        return bool(self._text >= text_of(other))

    def __hash__(self) -> int:
        return hash(self._text)

    def __contains__(self, other: object) -> bool:
        return text_of(other) in self._text

    # Parts: of both.

    def _part(self, start: int, stop: int) -> Marked:
        return Marked(str.__getitem__(self, slice(start, stop)), self._text[start:stop], self._marks)

    def _parts(self, lengths: Iterable[int], gap: int) -> list[str]:
        parts: list[str] = []
        at = 0
        for length in lengths:
            parts.append(self._part(at, at + length))
            at += length + gap
        return parts

    def __getitem__(self, key: SupportsIndex | slice) -> Marked:
        return Marked(str.__getitem__(self, key), self._text[key], self._marks)

    def __iter__(self) -> Iterator[str]:
        return (self._part(i, i + 1) for i in range(len(self)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._split(sep, self._text.split(text_of(sep), maxsplit))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._split(sep, self._text.rsplit(text_of(sep), maxsplit))

    def _split(self, sep: str | None, texts: list[str]) -> list[str]:
        if sep is not None:
            return self._parts(map(len, texts), len(sep))
        parts: list[str] = []
        at = 0
        for text in texts:  # what lies between them is white space, which no part begins with but the first of rsplit
            at = self._text.index(text, at)
            parts.append(self._part(at, at + len(text)))
            at += len(text)
        return parts

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = self._parts(map(len, self._text.splitlines(True)), 0)
        texts = self._text.splitlines(keepends)
        return [line[: len(text)] for line, text in zip(lines, texts, strict=True)]

    def partition(self, sep: str) -> tuple[str, str, str]:
        return self._partition(self._text.partition(text_of(sep)))

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        return self._partition(self._text.rpartition(text_of(sep)))

    def _partition(self, texts: tuple[str, str, str]) -> tuple[str, str, str]:
        before, middle, after = self._parts(map(len, texts), 0)
        return before, middle, after

    def strip(self, chars: str | None = None) -> str:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None) -> str:
        return self._part(len(self) - len(self._text.lstrip(text_of(chars))), len(self))

    def rstrip(self, chars: str | None = None) -> str:
        return self._part(0, len(self._text.rstrip(text_of(chars))))

    def removeprefix(self, prefix: str) -> str:
        return self._part(len(self) - len(self._text.removeprefix(text_of(prefix))), len(self))

    def removesuffix(self, suffix: str) -> str:
        return self._part(0, len(self._text.removesuffix(text_of(suffix))))

    # New strings: of both.

    def __str__(self) -> str:
        return self  # `str(x)`, which Jinja writes around everything, must not drop the text

    def __repr__(self) -> str:
        return self._marks.mark(repr(self._text))

    def __format__(self, spec: str) -> str:
        return str.__format__(str.__str__(self), spec)

    def __add__(self, other: str) -> str:
        return join_text("", (self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return join_text("", (other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> Marked:
        return Marked(str.__mul__(self, times), self._text * times, self._marks)

    __rmul__ = __mul__

    def join(self, parts: Iterable[str]) -> str:
        return join_text(self, parts)

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        if not old:
            return self._marks.mark(self._text.replace("", text_of(new), count))
        return join_text(new, self.split(old, count))


def _on_text(name: str) -> Callable[..., Any]:
    method = getattr(str, name)

    def call(self: Marked, *args: Any) -> Any:
        return method(self._text, *(tuple(map(text_of, a)) if isinstance(a, tuple) else text_of(a) for a in args))

    return call


def _marked_anew(name: str) -> Callable[[Marked], str]:
    method = getattr(str, name)
    return lambda self: self._marks.mark(method(self._text))


def _on_both(name: str) -> Callable[..., str]:
    method = getattr(str, name)

    def call(self: Marked, *args: Any) -> str:
        return self._marks.like(lambda of: str(method(of(self), *map(of, args))), self)

    return call


PREDICATES: Sequence[str] = tuple(name for name in dir(str) if name.startswith("is"))
SEARCHES: Sequence[str] = ("count", "endswith", "find", "index", "rfind", "rindex", "startswith")
CASES: Sequence[str] = ("capitalize", "casefold", "lower", "swapcase", "title", "upper")
PADDINGS: Sequence[str] = ("center", "expandtabs", "ljust", "rjust", "zfill")

for _name in (*PREDICATES, *SEARCHES):
    setattr(Marked, _name, _on_text(_name))
for _name in PADDINGS:
    setattr(Marked, _name, _on_both(_name))
for _name in CASES:
    setattr(Marked, _name, _marked_anew(_name))
