"""The painter on a small terminal of our own: what stays on screen and in the scrollback is the finished text, once."""

from __future__ import annotations

import random
import re

import pytest
from rich.cells import cell_len

from edgeinfer.cli.chatting.markdown import Markdown
from edgeinfer.cli.chatting.painter import Line, Painter, n_rows


class Terminal:
    """Enough of a VT100: wrapping with a pending last column, cursor up, erasing, scrolling into a scrollback."""

    def __init__(self, n_columns: int, n_lines: int) -> None:
        self.n_columns, self.n_lines = n_columns, n_lines
        self.cells: list[list[str]] = [[]]
        self.wrapped: set[int] = set()  # rows that continue the one before
        self.top = self.row = self.column = 0

    def write(self, text: str) -> None:
        for part in re.split(r"(\x1b\[[0-9;]*[A-Za-z])", text):
            if part.startswith("\x1b["):
                self.control(part[-1], int(part[2:-1] or 1) if part[-1] == "A" else 0)
            else:
                for character in part:
                    self.put(character)

    def control(self, kind: str, n: int) -> None:
        if kind == "A":
            self.row = max(self.row - n, self.top)
        elif kind == "K":
            del self.cells[self.row][min(self.column, self.n_columns - 1) :]
        elif kind == "J":
            self.control("K", 0)
            del self.cells[self.row + 1 :]
            self.wrapped -= {row for row in self.wrapped if row > self.row}
        else:
            assert kind == "m", kind

    def put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.down()
        else:
            width = cell_len(character)
            if self.column + width > self.n_columns:
                self.down()
                self.wrapped.add(self.row)
            line = self.cells[self.row]
            line.extend(" " * (self.column - len(line)))
            line[self.column : self.column + width] = [character, *[""] * (width - 1)]
            self.column += width

    def down(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.cells):
            self.cells.append([])
        self.wrapped.discard(self.row)
        self.top = max(self.top, self.row - self.n_lines + 1)

    @property
    def text(self) -> str:
        lines: list[str] = []
        for i, row in enumerate(self.cells):
            if i in self.wrapped:
                lines[-1] += "".join(row)
            else:
                lines.append("".join(row))
        return "\n".join(line.rstrip() for line in lines)


SOURCE = """# A title
Some **bold** and *slanted* and `code` and [a link](http://x.y). A paragraph that is long enough to take some rows.
你好世界，你好世界，你好世界，你好世界，你好世界。

- one with **bold text that wraps** around the edge of a narrow screen
  - nested
1. first
10) tenth

> quoted
```python
def f(x):
    '''doc
    string'''
    return "a long line of code that does not end before the edge of the screen", x

```
| Name | Value |
|------|------:|
| a    | **1** |
| bb   | 22    |

***
~~Over~~ `unclosed **and done
"""


def drawn(source: str, n_columns: int, n_lines: int, pieces: random.Random | None) -> str:
    terminal = Terminal(n_columns, n_lines)
    painter = Painter(terminal.write, lambda: (n_columns, n_lines))
    markdown = Markdown(lambda: n_columns - 1)
    while source:
        n = pieces.randint(1, 9) if pieces else len(source)
        painter.update(*markdown.feed(source[:n]))
        source = source[n:]
    painter.update(markdown.close(), [])
    painter.finish()
    return terminal.text


@pytest.mark.parametrize(("n_columns", "n_lines"), [(80, 24), (40, 12), (25, 12)])
def test_an_answer_drawn_in_pieces_looks_as_if_drawn_at_once(n_columns: int, n_lines: int) -> None:
    at_once = drawn(SOURCE, n_columns, 1000, None)
    for seed in range(5):
        assert drawn(SOURCE, n_columns, n_lines, random.Random(seed)) == at_once


def test_what_the_rendering_is() -> None:
    lines = drawn(SOURCE, 60, 1000, None).split("\n")
    assert lines[:2] == ["A title", "Some bold and slanted and code and a link (http://x.y). A"]
    assert "• one with bold text that wraps around the edge of a narrow" in lines
    assert "  screen" in lines
    assert "  • nested" in lines
    assert "10) tenth" in lines
    assert "│ quoted" in lines
    assert "    '''doc" in lines
    assert (
        '    return "a long line of code that does not end before the edge of the screen", x' in lines
    )  # to be copied
    assert "Name │ Value" in lines
    assert "bb   │ 22" in lines
    assert lines[-2] == "Over `unclosed **and done"


def test_what_scrolled_away_is_never_written_again() -> None:
    terminal = Terminal(20, 5)
    written: list[str] = []

    def write(text: str) -> None:
        terminal.write(text)
        written.append(text)

    painter = Painter(write, lambda: (20, 5))
    for n in range(1, 30):
        painter.update([], [Line(f"line {i}", f"line {i}") for i in range(n)])
    painter.update([], [Line(f"{'new' if i < 28 else 'line'} {i}", "") for i in range(29)])
    assert terminal.text.startswith("line 0\nline 1\n")
    assert sum(map(len, written)) < 29 * 60


def test_an_unchanged_update_writes_nothing() -> None:
    written: list[str] = []
    painter = Painter(written.append, lambda: (20, 5))
    painter.update([], [Line("a", "a")])
    painter.update([], [Line("a", "a")])
    assert len(written) == 1
    painter.update([Line("a", "a")], [])
    painter.finish()
    painter.finish()
    assert "".join(written).count("\n") == 1


@pytest.mark.parametrize(
    ("text", "n_columns", "rows"),
    [("", 10, 1), ("x" * 10, 10, 1), ("x" * 11, 10, 2), ("你" * 5, 10, 1), ("x" + "你" * 5, 10, 2), ("你你你", 5, 2)],
)
def test_rows(text: str, n_columns: int, rows: int) -> None:
    assert n_rows(text, n_columns) == rows


HOSTILE = "\x1b]52;c;ZXZpbA==\x07 \x1b[2J \x9b31m &#x1b;[31m &#8238; `\x1b[A` [\x1b[H](http://\u202ex) ![\x07](\x1b)\r"


@pytest.mark.parametrize("wrap", ["{}", "# {}", "- {}", "> {}", "```\n{}\n```", "| {} |\n|---|\n| {} |", "```{}\n"])
def test_nothing_of_the_model_reaches_the_terminal_as_a_control(wrap: str) -> None:
    markdown = Markdown(lambda: 79)
    lines = [line for part in markdown.feed(wrap.replace("{}", HOSTILE)) for line in part] + markdown.close()
    written = "\n".join(line.ansi for line in lines)
    ours = re.sub(r"\x1b\[[0-9;]*m", "", written)  # rich's colours
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", ours)
    assert "52;c" in ours


def test_no_colour_when_not_wanted() -> None:
    markdown = Markdown(lambda: 79, None)
    finished, _ = markdown.feed("**b** `c`\n```python\nprint(1)\n")
    codes = re.findall(r"\x1b\[([0-9;]*)m", "".join(line.ansi for line in finished))
    assert {part for code in codes for part in code.split(";")} <= {"0", "1", "2", ""}
