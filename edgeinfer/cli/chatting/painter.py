"""Lines on a terminal of which the last few may still change. Owns cursor movement; knows nothing of markdown.

What is finished is written once and never touched again, so the scrollback stays whole. What is open is rewritten in
place, from the first line that differs, in one write; a line that has scrolled off the top stays as it was written.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.cells import cell_len

__all__ = ["Line", "Painter", "n_rows"]


class Line(NamedTuple):
    """A line as text (what its width is measured by) and as it is written, with its escape sequences."""

    plain: str
    ansi: str


def n_rows(plain: str, n_columns: int) -> int:
    """Screen rows that a line takes: a wide character that does not fit at the edge begins the next row."""
    if cell_len(plain) <= n_columns:
        return 1
    rows, column = 1, 0
    for character in plain:
        width = cell_len(character)
        column += width
        if column > n_columns:
            rows, column = rows + 1, width
    return rows


class Painter:
    """Keeps the open lines on the screen up to date. ``size`` gives (columns, rows) of the terminal as it is now."""

    def __init__(self, write: Callable[[str], object], size: Callable[[], tuple[int, int]]) -> None:
        self._write = write
        self._size = size
        self._shown: list[Line] = []  # open, and on the screen; the cursor stands at the end of the last
        self._at_start = True  # nothing is written on the cursor's line

    def update(self, finished: Sequence[Line], open_lines: Sequence[Line]) -> None:
        """Show ``finished`` in place of the first open lines, for good, and ``open_lines`` after them."""
        self._paint([*finished, *open_lines])
        del self._shown[: len(finished)]

    def finish(self) -> None:
        """Leave everything as it is, with the cursor at the beginning of a line of its own."""
        self._shown = []
        if not self._at_start:
            self._write("\n")
        self._at_start = True

    def _paint(self, lines: list[Line]) -> None:
        n_columns, n_lines = self._size()
        pairs = itertools.zip_longest(self._shown, lines)
        first = next((i for i, (old, new) in enumerate(pairs) if old != new), len(lines))
        old = [n_rows(line.plain, n_columns) for line in self._shown]
        while first < len(old) and sum(old[first:]) > n_lines:  # its first row has scrolled away
            first += 1
        if first >= len(lines) and first >= len(old):
            self._shown = lines
            return
        out = []
        if first < len(old):
            up = sum(old[first:]) - 1
            out.append("\r" + (f"\x1b[{up}A" if up else ""))
            if sum(old[first:]) > sum(n_rows(line.plain, n_columns) for line in lines[first:]):
                out.append("\x1b[J")
        elif not self._at_start:
            out.append("\n")
        out.append("\n".join(line.ansi + _erase_rest(line, n_columns) for line in lines[first:]))
        self._write("".join(out))
        self._shown = lines
        self._at_start = self._at_start and not lines


def _erase_rest(line: Line, n_columns: int) -> str:
    """Erases what an older line left behind; not after a filled last column, where it would take its character."""
    width = cell_len(line.plain)
    return "" if width and width % n_columns == 0 else "\x1b[K"
