"""One answer as it grows: markdown source in, a document that is written to at its end alone.

A source block that can no longer change is written once. Only what is still open (a paragraph, a list's last item, a
table, the last line of code) is written anew with each piece of text, so that a piece costs the same at the end of a
long answer as at its beginning. Whoever feeds whole conversations feeds pieces too, and stays responsive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PySide6.QtGui import QTextList

from edgeinfer.desktop.writer import Writer
from edgeinfer.text.markdown import language_of, last_start, parser

if TYPE_CHECKING:
    from markdown_it.token import Token

__all__ = ["GrowingAnswer"]

_REFERENCE = re.compile(r"^ {0,3}\[[^\]\n]+\]:", re.MULTILINE)
_BLANK = re.compile(r"\A(?:[ \t]*\n)+")
_MOST_OPEN = 1 << 14
"""Characters of one open block from which on it is shown as it was written: to parse it at each piece would take too
long, and no person writes such a paragraph."""


@dataclass(slots=True)
class _Code:
    """A block of code that is open: what ends it, how far it is set in, and its lines so far."""

    mark: str
    n_indent: int
    language: str
    lines: list[str] = field(default_factory=list)

    def ends_at(self, line: str) -> bool:
        text = line.strip()
        return len(text) >= len(self.mark) and set(text) == set(self.mark) and len(line) - len(line.lstrip()) < 4

    def inner(self, line: str) -> str:
        n_spaces = len(line) - len(line.lstrip(" "))
        return line[min(self.n_indent, n_spaces) :]


class GrowingAnswer:
    """Writes at the end of the writer's document, which nobody else does meanwhile."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._begin = self._anchor = writer.end
        self._source: list[str] = []
        self._open = ""
        self._code: _Code | None = None
        self._list: QTextList | None = None

    @property
    def text(self) -> str:
        """The source so far."""
        return "".join(self._source)

    def feed(self, text: str) -> None:
        """More source."""
        text = text.replace("\r", "")
        if text:
            self._source.append(text)
            self._open += text
            self._writer.together(self._redraw)

    def finish(self) -> None:
        """The source is whole."""
        source = self.text
        if _REFERENCE.search(source):  # links may be named before it is known where they lead
            self._writer.together(lambda: self._rewrite(source))
        elif self._code is not None and self._open and not self._code.ends_at(self._open):
            code, last = self._code, self._code.inner(self._open)
            self._writer.cut(self._anchor)
            self._writer.code([last], code.language, code.lines)

    def _rewrite(self, source: str) -> None:
        self._writer.cut(self._begin)
        self._writer.markdown(parser().parse(source))

    def _redraw(self) -> None:
        self._writer.cut(self._anchor)
        while self._open:
            if self._code is not None:
                if self._in_code(self._code):
                    return
                continue
            if not self._settle():
                return

    # ---- blocks

    def _settle(self) -> bool:
        """Write what is open, for good what cannot change any more. True where code began, whose lines follow."""
        tokens = parser().parse(self._open)
        if not tokens:
            return False
        cut = _last_start(tokens)
        line, lines = (tokens[cut].map or [0])[0], self._open.split("\n")
        # A line that is still being written may yet turn out to belong to the block before it.
        if cut and line < len(lines) - 1:
            in_list = tokens[cut].type == "list_item_open"
            last = self._writer.markdown([*tokens[:cut], *(tokens[-1:] if in_list else ())], self._list)
            self._list = last if in_list else None
            self._anchor = self._writer.end
            self._open = "\n".join(lines[line:])
            tokens = parser().parse(self._open)
        if self._begins_code(tokens):
            return True
        if len(self._open) > _MOST_OPEN:
            return self._as_it_stands()
        self._writer.markdown(tokens, self._list)
        return False

    def _as_it_stands(self) -> bool:
        """All but the last line of an endless block, as plain text, for good."""
        head, newline, tail = self._open.rpartition("\n")
        if newline:
            self._writer.plain(head)
            self._anchor, self._open, self._list = self._writer.end, tail, None
            return bool(tail) and len(tail) <= _MOST_OPEN
        self._writer.plain(self._open)
        return False

    # ---- code

    def _begins_code(self, tokens: list[Token]) -> bool:
        fence = tokens[0] if len(tokens) == 1 and tokens[0].type == "fence" else None
        head, newline, rest = _BLANK.sub("", self._open, count=1).partition("\n")
        if fence is None or not newline:
            return False
        self._code = _Code(fence.markup, len(head) - len(head.lstrip(" ")), language_of(fence.info))
        self._list, self._open = None, rest
        return True

    def _in_code(self, code: _Code) -> bool:
        """Write lines of code; true where the source ends in them."""
        *whole, partial = self._open.split("\n")
        end = next((i for i, line in enumerate(whole) if code.ends_at(line)), None)
        new = [code.inner(line) for line in whole[:end]]
        if new:
            self._writer.code(new, code.language, code.lines)
            code.lines += new
            self._anchor = self._writer.end
        if end is not None:
            if not code.lines:
                self._writer.code([""], code.language)
                self._anchor = self._writer.end
            self._code, self._open = None, "\n".join([*whole[end + 1 :], partial])
            return False
        self._open = partial
        seen = "" if set(partial.strip()) <= set(code.mark) else code.inner(partial)  # it may become the end's mark
        if seen or not code.lines:
            self._writer.code([seen], code.language, code.lines)
        return True


def _last_start(tokens: list[Token]) -> int:
    """Where the last block begins that may still change: one of the top level, or a top-level list's last item."""
    start = last_start(tokens)
    if tokens[start].type.endswith("_list_open"):
        items = [
            i for i, token in enumerate(tokens) if i > start and token.type == "list_item_open" and token.level == 1
        ]
        return items[-1] if len(items) > 1 else start
    return start
