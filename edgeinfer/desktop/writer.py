"""Markdown into a QTextDocument: paragraphs, lists, tables, code with its colours.

Writes at the end of the document; never parses HTML and loads nothing, whatever a model says. What a person reads
passes `printable`, so that no character reorders a line or hides one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtGui import (
    QColor,
    QFont,
    QFontDatabase,
    QTextBlock,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextFormat,
    QTextLength,
    QTextList,
    QTextListFormat,
    QTextTableFormat,
)

from edgeinfer.desktop.highlight import highlighted
from edgeinfer.desktop.theme import Theme
from edgeinfer.text.markdown import language_of
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from markdown_it.token import Token

__all__ = ["Writer", "is_code"]

_SCHEMES = ("http:", "https:", "mailto:")
_GAP = 8.0  # pixels between paragraphs
_QUOTE = 20.0  # pixels that a quote is set in
_WRITTEN, _CODE = QTextFormat.Property.UserProperty, QTextFormat.Property.UserProperty + 1
_BULLETS = (QTextListFormat.Style.ListDisc, QTextListFormat.Style.ListCircle, QTextListFormat.Style.ListSquare)
_HEADINGS = {"h1": 3, "h2": 2, "h3": 1}  # steps of the font's size


def is_code(block: QTextBlock) -> bool:
    """Whether the block is a line of code."""
    return bool(block.blockFormat().property(_CODE))


@dataclass(slots=True)
class _Level:
    """A list that is open: its first token, and Qt's list once it has an item."""

    token: Token
    made: QTextList | None = None


class Writer:
    """Writes into one document, in one theme."""

    def __init__(self, document: QTextDocument, theme: Theme) -> None:
        self.theme = theme
        self._cursor = QTextCursor(document)
        self._mono = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont).families()
        self._levels: list[_Level] = []
        self._item_begins = False
        self._n_quotes = 0

    @property
    def end(self) -> int:
        """The position where the next block would follow."""
        self._cursor.movePosition(QTextCursor.MoveOperation.End)
        return self._cursor.position()

    def cut(self, position: int) -> None:
        """Remove everything after ``position``, an earlier `end`."""
        self._cursor.setPosition(position)
        # An empty block that another is cut from takes over that one's format.
        kept = self._cursor.blockFormat() if position else QTextBlockFormat()
        self._cursor.movePosition(QTextCursor.MoveOperation.End, QTextCursor.MoveMode.KeepAnchor)
        self._cursor.removeSelectedText()
        if self._cursor.block().length() == 1:
            self._cursor.setBlockFormat(kept)

    def together(self, work: Callable[[], None]) -> None:
        """Do several changes as one: the document is laid out once."""
        self._cursor.beginEditBlock()
        try:
            work()
        finally:
            self._cursor.endEditBlock()

    # ---- plain text

    def plain(self, text: str, *, colour: str | None = None, small: bool = False, bold: bool = False) -> None:
        """Lines as they stand."""
        char = QTextCharFormat()
        char.setForeground(QColor(colour or self.theme.text))
        if small:
            char.setProperty(QTextFormat.Property.FontSizeAdjustment, -1)
        if bold:
            char.setFontWeight(QFont.Weight.Bold)
        for i, line in enumerate(printable(text).split("\n")):
            self._block(self._paragraph(_GAP if i == 0 else 0.0))
            self._cursor.insertText(line, char)

    def code(self, lines: Sequence[str], language: str, before: Sequence[str] = ()) -> None:
        """Lines of code. ``before``: those above, which were written already; without them the block begins here."""
        if not before:
            self._item()
        shown = [printable(line) for line in lines]
        for i, row in enumerate(highlighted(shown, language, self.theme.style, before)):
            block = self._paragraph(_GAP if i == 0 and not before else 0.0)
            block.setBackground(QColor(self.theme.code))
            block.setProperty(_CODE, True)
            self._block(block)
            for span in row:
                char = self._code_format(span.colour)
                if span.bold:
                    char.setFontWeight(QFont.Weight.Bold)
                char.setFontItalic(span.italic)
                self._cursor.insertText(span.text, char)

    def _code_format(self, colour: str | None = None) -> QTextCharFormat:
        char = QTextCharFormat()
        char.setFontFamilies(self._mono)
        char.setFontFixedPitch(True)
        char.setForeground(QColor(colour or self.theme.text))
        return char

    # ---- markdown

    def markdown(self, tokens: Sequence[Token], goes_on: QTextList | None = None) -> QTextList | None:
        """Write blocks as the parser gave them. ``goes_on``: the list that the first of them, a list too, continues.
        Returns the list that the last block is, None where it is something else."""
        self._levels.clear()
        self._n_quotes, self._item_begins = 0, False
        last: QTextList | None = None
        i = 0
        while i < len(tokens):
            token = tokens[i]
            if token.type == "table_open":
                last, i = None, self._table(tokens, i)
            elif token.type.endswith("_list_close"):
                last = self._levels.pop().made
            elif token.type == "inline":
                self._text(tokens[i - 1].tag, token.children or [])
            else:
                last = None if token.level == 0 else last
                self._open_or_close(token, goes_on if i == 0 else None)
            i += 1
        return last

    def _open_or_close(self, token: Token, goes_on: QTextList | None) -> None:
        kind = token.type
        if kind.endswith("_list_open"):
            self._item()
            self._levels.append(_Level(token, goes_on))
        elif kind == "list_item_open":
            self._item_begins = True
        elif kind == "list_item_close":
            self._item()
        elif kind in ("blockquote_open", "blockquote_close"):
            self._n_quotes += 1 if kind == "blockquote_open" else -1
        elif kind in ("fence", "code_block"):
            self.code(token.content.removesuffix("\n").split("\n"), language_of(token.info))
        elif kind == "hr":
            rule = self._paragraph(_GAP)
            rule.setProperty(
                QTextFormat.Property.BlockTrailingHorizontalRulerWidth,
                QTextLength(QTextLength.Type.PercentageLength, 100),
            )
            self._block(rule)

    def _text(self, tag: str, children: Sequence[Token]) -> None:
        """A paragraph or a heading, which may be the beginning of a list's item."""
        block, char = self._paragraph(_GAP if not self._levels else _GAP / 2), QTextCharFormat()
        char.setForeground(QColor(self.theme.muted if self._n_quotes else self.theme.text))
        if tag.startswith("h"):
            block.setHeadingLevel(int(tag[1:]))
            char.setFontWeight(QFont.Weight.Bold)
            char.setProperty(QTextFormat.Property.FontSizeAdjustment, _HEADINGS.get(tag, 0))
        self._item(block) if self._item_begins else self._block(block)
        self._inline(self._cursor, children, char)

    def _item(self, block: QTextBlockFormat | None = None) -> None:
        """Begin the list's item that was announced, if one was."""
        if not self._item_begins:
            return
        self._item_begins = False
        level = self._levels[-1]
        block = block or self._paragraph(_GAP / 2)
        block.setIndent(0)  # the list's own indent
        self._block(block)
        if level.made is None:
            level.made = self._cursor.createList(self._list_format(level.token))
        else:
            level.made.add(self._cursor.block())

    def _list_format(self, token: Token) -> QTextListFormat:
        made, depth = QTextListFormat(), len(self._levels)
        made.setIndent(depth)
        if token.type == "ordered_list_open":
            made.setStyle(QTextListFormat.Style.ListDecimal)
            made.setStart(int(token.attrs.get("start", 1)))
        else:
            made.setStyle(_BULLETS[(depth - 1) % len(_BULLETS)])
        return made

    def _paragraph(self, gap: float) -> QTextBlockFormat:
        block = QTextBlockFormat()
        block.setTopMargin(gap)
        block.setIndent(len(self._levels))
        block.setLeftMargin(_QUOTE * self._n_quotes)
        block.setProperty(_WRITTEN, True)
        return block

    def _block(self, block: QTextBlockFormat) -> None:
        """Begin a block at the end; the empty one that a document or a table ends with is taken."""
        self._cursor.movePosition(QTextCursor.MoveOperation.End)
        here = self._cursor.block()
        if here.length() == 1 and not here.blockFormat().property(_WRITTEN):
            self._cursor.setBlockFormat(block)
            self._cursor.setBlockCharFormat(QTextCharFormat())
        else:
            self._cursor.insertBlock(block, QTextCharFormat())

    def _table(self, tokens: Sequence[Token], begin: int) -> int:
        """The table that begins there; returns where it ends."""
        rows: list[list[tuple[bool, Sequence[Token]]]] = []
        end = begin
        while tokens[end].type != "table_close":
            if tokens[end].type == "tr_open":
                rows.append([])
            elif tokens[end].type == "inline":
                rows[-1].append((tokens[end - 1].type == "th_open", tokens[end].children or []))
            end += 1
        look = QTextTableFormat()
        look.setBorderCollapse(True)
        look.setBorder(1)
        look.setBorderBrush(QColor(self.theme.muted))
        look.setCellPadding(5)
        look.setTopMargin(_GAP)
        self._cursor.movePosition(QTextCursor.MoveOperation.End)
        made = self._cursor.insertTable(len(rows), max(map(len, rows)), look)
        for r, row in enumerate(rows):
            for c, (is_head, children) in enumerate(row):
                char = QTextCharFormat()
                char.setForeground(QColor(self.theme.text))
                char.setFontWeight(QFont.Weight.Bold if is_head else QFont.Weight.Normal)
                self._inline(made.cellAt(r, c).firstCursorPosition(), children, char)
        self._cursor.movePosition(QTextCursor.MoveOperation.End)
        after = self._paragraph(0.0)  # Qt wants a block there; nobody shall see it
        after.setLineHeight(1, QTextBlockFormat.LineHeightTypes.FixedHeight.value)
        self._cursor.setBlockFormat(after)
        return end

    # ---- within a line

    def _inline(self, cursor: QTextCursor, children: Sequence[Token], base: QTextCharFormat) -> None:
        formats = [base]
        for token in children:
            kind = token.type
            if kind.endswith("_open"):
                formats.append(self._marked(formats[-1], token))
            elif kind.endswith("_close"):
                formats.pop()
            elif kind == "code_inline":
                char = self._code_format()
                char.setBackground(QColor(self.theme.code))
                cursor.insertText(printable(token.content), char)
            elif kind in ("softbreak", "hardbreak"):
                cursor.insertText("\u2028", formats[-1])
            elif kind == "image":  # named, never loaded
                cursor.insertText(printable(f"{token.content} ({token.attrs.get('src', '')})"), formats[-1])
            else:
                cursor.insertText(printable(token.content), formats[-1])

    def _marked(self, outer: QTextCharFormat, token: Token) -> QTextCharFormat:
        char = QTextCharFormat(outer)
        if token.type == "strong_open":
            char.setFontWeight(QFont.Weight.Bold)
        elif token.type == "em_open":
            char.setFontItalic(True)
        elif token.type == "s_open":
            char.setFontStrikeOut(True)
        elif token.type == "link_open":
            target = str(token.attrs.get("href", ""))
            if target.startswith(_SCHEMES):
                char.setAnchor(True)
                char.setAnchorHref(target)
                char.setToolTip(printable(target))
                char.setForeground(QColor(self.theme.accent))
                char.setFontUnderline(True)
        return char
