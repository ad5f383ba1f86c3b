"""Markdown to terminal lines while it arrives. Owns no terminal: text goes in, lines come out.

Models write a paragraph, a list item or a line of code as one source line, so a source line is the unit: finished when
its newline comes, rendered anew with every token until then. Tables alone stay open over several lines.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from edgeinfer.cli.chatting.painter import Line
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from rich.syntax import Syntax

__all__ = ["Markdown"]

_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$")
_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)\s*#*$")
_RULE = re.compile(r" {0,3}([-*_])(?:\s*\1){2,}\s*$")
_BULLET = re.compile(r"(\s*)[-*+](\s+)(.*)$")
_NUMBER = re.compile(r"(\s*)(\d{1,9}[.)])(\s+)(.*)$")
_QUOTE = re.compile(r"\s*>\s?(.*)$")
_TABLE = re.compile(r"\s*\|")
_TABLE_RULE = re.compile(r"\s*\|?[\s:|-]*-[\s:|-]*$")
_CODE_CONTEXT = 200  # lines of a code block that are highlighted together with the newest one
_STYLES = {"strong_open": "bold", "em_open": "italic", "s_open": "strike", "link_open": "underline"}


class _Code(NamedTuple):
    """An open code block: what ends it, its language, its lines so far."""

    fence: str
    language: str
    lines: list[str]


class Markdown:
    """Renders one answer. ``width``: columns to wrap at; lines of code are left as long as they are.

    ``color_system`` is rich's (``None``: no colour, only bold, italic and dim).
    """

    def __init__(self, width: Callable[[], int], color_system: str | None = "standard") -> None:
        self._width = width
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            color_system=color_system or "standard",  # type: ignore[arg-type]
            no_color=color_system is None,
            width=10_000,
            highlight=False,
        )
        self._partial = ""
        self._code: _Code | None = None
        self._table: list[str] = []

    def feed(self, text: str) -> tuple[list[Line], list[Line]]:
        """Take more text; returns (lines that are finished now, lines that are open), in the order of the screen."""
        *whole, self._partial = (self._partial + printable(text)).split("\n")
        finished = [line for source in whole for line in self._finish_line(source.expandtabs(4))]
        return finished, self._open_lines()

    def close(self) -> list[Line]:
        """The last lines, of whatever is still open."""
        finished = self._finish_line(self._partial.expandtabs(4)) if self._partial else []
        finished += self._table_lines()
        self._partial, self._table, self._code = "", [], None
        return finished

    def _finish_line(self, source: str) -> list[Line]:
        if self._code:
            return [self._code_line(self._code, source)]
        if _TABLE.match(source):
            self._table.append(source)
            return []
        finished, self._table = self._table_lines(), []
        fence = _FENCE.match(source)
        if fence:
            self._code = _Code(fence[1], fence[2], [])
            return [*finished, self._line(Text(source, "dim"))]
        return finished + self._block(source)

    def _open_lines(self) -> list[Line]:
        source = self._partial.expandtabs(4)
        if self._code:
            return [self._code_line(self._code, source, final=False)] if source else []
        if self._table:
            return self._table_lines(source)
        return self._block(_closed(source)) if source else []

    # ---- code

    def _code_line(self, code: _Code, source: str, *, final: bool = True) -> Line:
        mark = source.strip()
        if mark.startswith(code.fence) and not mark.strip(code.fence[0]):
            if final:
                self._code = None
            return self._line(Text(source, "dim"))
        context = [*code.lines[-_CODE_CONTEXT:], source]
        if final:
            code.lines.append(source)
        syntax = _syntax(code.language)
        if syntax is None or not source.strip():
            return self._line(Text(source))
        rows = syntax.highlight("\n".join(context)).split("\n", allow_blank=True)
        row = rows[len(context) - 1] if len(rows) >= len(context) else Text(source)
        return self._line(row if row.plain == source else Text(source))

    # ---- tables

    def _table_lines(self, partial: str = "") -> list[Line]:
        rows = [_cells(source) for source in [*self._table, *([partial] if partial else [])]]
        rules = {i for i, source in enumerate(self._table) if _TABLE_RULE.match(source)}
        texts = [[self._inline(cell) for cell in row] for row in rows]
        for row in texts[:1] if 1 in rules else []:
            for cell in row:
                cell.stylize("bold")
        n_columns = max((len(row) for row in rows), default=0)
        body = [row for i, row in enumerate(texts) if i not in rules]
        widths = [max([3, *(row[i].cell_len for row in body if i < len(row))]) for i in range(n_columns)]
        if sum(widths) + 3 * n_columns > self._width():  # too wide for columns: as it was written
            return [line for source in [*self._table, partial] if source for line in self._wrapped(Text(source))]
        lines = []
        for i, row in enumerate(texts):
            if i in rules:
                lines.append(self._line(Text("─┼─".join("─" * width for width in widths), "dim")))
                continue
            padded = [cell + Text(" " * (width - cell.cell_len)) for cell, width in zip(row, widths, strict=False)]
            lines.append(self._line(Text(" │ ", "dim").join(padded)))
        return lines

    # ---- everything else

    def _block(self, source: str) -> list[Line]:
        if not source.strip():
            return [Line("", "")]
        if heading := _HEADING.match(source):
            text = self._inline(heading[2])
            text.stylize("bold underline" if len(heading[1]) < 3 else "bold")
            return self._wrapped(text)
        if _RULE.match(source):
            return [self._line(Text("─" * min(self._width(), 40), "dim"))]
        if quote := _QUOTE.match(source):
            return self._wrapped(self._inline(quote[1]), Text("│ ", "dim"), Text("│ ", "dim"))
        if bullet := _BULLET.match(source):
            return self._wrapped(self._inline(bullet[3]), Text(f"{bullet[1]}• "))
        if number := _NUMBER.match(source):
            return self._wrapped(self._inline(number[4]), Text(f"{number[1]}{number[2]} "))
        body = source.lstrip()
        return self._wrapped(self._inline(body), Text(source[: len(source) - len(body)]))

    def _wrapped(self, text: Text, lead: Text | None = None, following: Text | None = None) -> list[Line]:
        """The text in rows of the terminal's width, the first after ``lead``, the others after as much room."""
        lead = lead or Text("")
        following = following or Text(" " * lead.cell_len)
        room = max(self._width() - lead.cell_len, 8)
        rows = list(text.wrap(self._console, room)) or [Text("")]
        return [self._line((following if i else lead) + row) for i, row in enumerate(rows)]

    def _line(self, text: Text) -> Line:
        with self._console.capture() as captured:
            self._console.print(text, end="", soft_wrap=True)
        return Line(text.plain, captured.get())

    def _inline(self, source: str) -> Text:
        """Emphasis, code, links. A link's target is shown, because what it says and where it leads may differ."""
        text = Text()
        styles: list[str] = []
        target, begin = "", 0
        for token in _parser().parseInline(source)[0].children or []:
            if token.type == "code_inline":
                text.append(printable(token.content), " ".join(["cyan", *styles]))
            elif token.type in _STYLES:
                styles.append(_STYLES[token.type])
                target, begin = str(token.attrs.get("href", "")), len(text)
            elif token.type.endswith("_close") and styles:
                styles.pop()
                if token.type == "link_close" and printable(target) != text.plain[begin:]:
                    text.append(f" ({printable(target)})", "dim")
            elif token.type == "image":
                text.append(printable(f"{token.content} ({token.attrs.get('src', '')})"), "dim")
            else:
                text.append(printable(token.content), " ".join(styles))
        return text


def _closed(source: str) -> str:
    """An unfinished line as if its open code and bold ended here, so that markers do not flash by as they arrive."""
    parts = source.split("`")
    if len(parts) % 2 == 0:
        return source + "`" if parts[-1] else source[:-1]
    if "".join(parts[::2]).count("**") % 2:
        return source[:-2] if source.endswith("**") else source.rstrip(" *") + "**"
    return source


def _cells(source: str) -> list[str]:
    return [cell.strip() for cell in source.strip().removeprefix("|").removesuffix("|").split("|")]


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Entities stay as written: &#8238; must not become the character that reverses a line.
    return MarkdownIt("commonmark").enable("strikethrough").disable("entity")


@functools.cache
def _syntax(language: str) -> Syntax | None:
    """A highlighter, or None for a language that is not known."""
    from rich.syntax import Syntax

    if not language or cell_len(language) > 40:
        return None
    syntax = Syntax("", language, theme="ansi_dark", background_color="default")
    return syntax if syntax.lexer else None
