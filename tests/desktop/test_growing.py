"""Markdown in a document: the same whether it comes at once or in pieces, at a price that does not grow with it."""

from __future__ import annotations

import random
import time

import pytest
from PySide6.QtGui import QTextBlock, QTextDocument

from edgeinfer.desktop import theme
from edgeinfer.desktop.growing import GrowingAnswer
from edgeinfer.desktop.highlight import Span, highlighted
from edgeinfer.desktop.writer import Writer, is_code
from edgeinfer.text.markdown import parser

SOURCE = """# Title

Some **bold** and *it* `code` [link](https://example.com/a) ![img](http://x/y.png) <b>html</b>
line two

1. first
   ```python
   def f(x):
       return "a" * x
   ```
2. second

   more
3. third
   - nested a
   - nested b
     1. deep

* other list
* b

- minus list

> quote **here**
> two

| a | b |
|---|---|
| 1 | `x` |
| 2 | y |

```python
def g(x: int) -> str:
    return f"{x}"

# end
```

~~~
```
~~~

after
with [a reference][r]

---
-
1.

~~gone~~ end

[r]: https://example.com/r
"""


def picture(document: QTextDocument) -> list[object]:
    """All that one sees, block by block."""
    seen: list[object] = []
    block = document.begin()
    while block.isValid():
        item = block.textList().itemText(block) if block.textList() else ""
        look, text = block.blockFormat(), block.text()
        spans = [
            (span.start, span.length, span.format.fontWeight(), span.format.anchorHref())
            for span in block.textFormats()
            if text[span.start : span.start + span.length].strip()
        ]
        seen.append((text, item, look.topMargin(), look.indent(), look.leftMargin(), is_code(block), spans))
        block = block.next()
    return seen


def at_once(source: str) -> QTextDocument:
    document = QTextDocument()
    Writer(document, theme.LIGHT).markdown(parser().parse(source))
    return document


def in_pieces(source: str, sizes: list[int]) -> QTextDocument:
    document = QTextDocument()
    answer = GrowingAnswer(Writer(document, theme.LIGHT))
    begin = 0
    while begin < len(source):
        size = sizes[begin % len(sizes)]
        answer.feed(source[begin : begin + size])
        begin += size
    answer.finish()
    assert answer.text == source.replace("\r", "")
    return document


@pytest.mark.parametrize("size", [1, 2, 7, 60, 10_000])
@pytest.mark.parametrize("n_lines", [None, 9, 24, 31, 36, 42])
def test_pieces_show_what_the_whole_does(size: int, n_lines: int | None) -> None:
    source = "\n".join(SOURCE.split("\n")[:n_lines])
    assert picture(in_pieces(source, [size])) == picture(at_once(source))


def test_pieces_of_any_size() -> None:
    chance = random.Random(7)
    for _ in range(10):
        sizes = [chance.randint(1, 40) for _ in range(17)]
        assert picture(in_pieces(SOURCE, sizes)) == picture(at_once(SOURCE))


@pytest.mark.parametrize(
    "source",
    [
        "```",
        "```\n",
        "```py\nx",
        "```py\nx\n``",
        "~~~\na\n",
        "- ",
        "1.",
        "|a|\n|-|",
        "> ",
        "\n\n\n",
        "\r\n",
        "\0",
        "a\r\nb",
    ],
)
def test_odd_ends(source: str) -> None:
    document = in_pieces(source, [1])
    for letter in source:
        if letter.isalpha() and "py" not in source:
            assert letter in document.toPlainText()


def test_a_piece_costs_the_same_at_the_end() -> None:
    """Ten times the answer, not ten times the price of a token."""
    costs = []
    for n_times in (1, 10):
        document = QTextDocument()
        answer = GrowingAnswer(Writer(document, theme.LIGHT))
        for _ in range(n_times):
            answer.feed(SOURCE.rpartition("[r]")[0])
        begin = time.thread_time()
        for i in range(200):
            answer.feed(f"word{i} ")
        costs.append(time.thread_time() - begin)
    assert costs[1] < 4 * costs[0] + 0.05


def test_nothing_of_a_model_is_html_or_loaded_or_hidden() -> None:
    hostile = (
        "<script>alert(1)</script> <img src='file:///etc/passwd'> ![x](file:///etc/passwd)\n\n"
        "[click](javascript:alert(1)) [file](file:///etc/passwd) [ok](https://example.com/)\n\n"
        "\u202eevil &#8238; `a\u202eb` \x1b[31m\n\n```\n\u202ecode\n```\n"
    )
    document = at_once(hostile)
    text = document.toPlainText()
    assert "<script>alert(1)</script>" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    targets = {span.format.anchorHref() for block in blocks(document) for span in block.textFormats()}
    assert targets == {"", "https://example.com/"}


def blocks(document: QTextDocument) -> list[QTextBlock]:
    found = []
    block = document.begin()
    while block.isValid():
        found.append(block)
        block = block.next()
    return found


def test_code_has_the_colours_of_its_language() -> None:
    rows = highlighted(["def f():", "    return 'x'"], "python", "default")
    assert ["".join(span.text for span in row) for row in rows] == ["def f():", "    return 'x'"]
    assert rows[0][0].text == "def"
    assert rows[0][0].colour
    assert rows[0][0].bold
    assert highlighted(["x\ty"], "no-such-language", "default") == [[Span("x\ty")]]


def test_code_knows_what_came_above() -> None:
    alone = highlighted(["inside"], "python", "default")[0][0]
    within = highlighted(["inside"], "python", "default", before=['x = """', "text"])[0][0]
    assert alone.colour != within.colour


def test_themes_can_be_read() -> None:
    """Contrast as WCAG 2 computes it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for made in (theme.LIGHT, theme.DARK):
        for ground in (made.base, made.code, made.window):
            for text in (made.text, made.muted, made.accent, made.danger):
                light, dark = sorted((luminance(ground), luminance(text)), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (made.name, ground, text)
