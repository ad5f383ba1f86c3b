"""Markdown as models write it: one parser for every screen, and where a text that still grows can be cut.

HTML is plain text here, whatever a model says."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

__all__ = ["language_of", "last_start", "parser"]


@functools.cache
def parser() -> MarkdownIt:
    """What reads the answers of models: CommonMark with tables and strikethrough."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def language_of(info: str) -> str:
    """The language that the opening line of a code block names."""
    return info.split()[0] if info.split() else ""


def last_start(tokens: Sequence[Token]) -> int:
    """Where the last block of the top level begins: what comes before it can no longer change when the text grows. Only
    a line that is whole begins a block for certain; ``tokens`` must not be empty."""
    return max(i for i, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0)
