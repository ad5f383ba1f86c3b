"""Nothing that a person reads may steer the terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.text import printable

PAYLOADS = [
    ("\x1b[2J", "\\x1b[2J"),
    ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),  # writes the clipboard
    ("\x1b]8;;http://x\x1b\\y", "\\x1b]8;;http://x\\x1b\\y"),
    ("\x9b31m", "\\x9b31m"),  # the same in one character
    ("safe\rEVIL", "safe\\x0dEVIL"),
    ("a\bb", "a\\x08b"),
    ("\x00\x7f", "\\x00\\x7f"),
    ("abc\u202ecba", "abc\\u202ecba"),
    ("\u2066x\u2069", "\\u2066x\\u2069"),
    ("\u2028", "\\u2028"),
    ("\ud83d", "\\ud83d"),
]


@pytest.mark.parametrize(("text", "shown"), PAYLOADS)
def test_payloads(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["", "plain", "two\nlines\tand a tab", "žluťoučký 你好 مرحبا", "👩‍👩‍👧 ❤️", "\\x1b"])
def test_text_is_left_alone(text: str) -> None:
    assert printable(text) == text


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_hostile_is_left(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert printable(shown) == shown
