"""Colours for code: spans of a text by pygments. Knows no widget."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pygments.lexers import get_lexer_by_name
from pygments.styles import get_style_by_name
from pygments.util import ClassNotFound

__all__ = ["Span", "highlighted"]

_CONTEXT_LINES = 80
"""Lines above that are read along, so that a string of several lines is known for one."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line. ``colour`` as ``#rrggbb``, None for the text's own."""

    text: str
    colour: str | None = None
    bold: bool = False
    italic: bool = False


def highlighted(lines: Sequence[str], language: str, style: str, before: Sequence[str] = ()) -> list[list[Span]]:
    """The spans of each of ``lines``, which follow on ``before``. A language that is not known has one span a line."""
    lexer = _lexer(language)
    if lexer is None:
        return [[Span(line)] for line in lines]
    context = [*before[-_CONTEXT_LINES:], *lines]
    rows: list[list[Span]] = [[]]
    for kind, text in lexer.get_tokens("\n".join(context)):
        first, *more = text.split("\n")
        for i, part in enumerate((first, *more)):
            if i:
                rows.append([])
            if part:
                rows[-1].append(_span(part, kind, style))
    kept = rows[len(context) - len(lines) : len(context)]
    # A lexer may change what it reads (tabs, odd line ends); the text shown is always the text given.
    return [
        row if "".join(span.text for span in row) == line else [Span(line)]
        for row, line in zip([*kept, *[[]] * (len(lines) - len(kept))], lines, strict=True)
    ]


def _span(text: str, kind: Any, style: str) -> Span:
    look = _look(kind, style)
    return Span(text, *look)


@functools.cache
def _look(kind: Any, style: str) -> tuple[str | None, bool, bool]:
    found = get_style_by_name(style).style_for_token(kind)
    return (f"#{found['color']}" if found["color"] else None, bool(found["bold"]), bool(found["italic"]))


@functools.lru_cache(64)
def _lexer(language: str) -> Any:
    if not language or len(language) > 40:
        return None
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
