"""Marked strings: what templates see is the text, what is copied carries the marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.errors import TemplateError
from edgeinfer.text.marked import Marked, Marks, join_text, text_of

MARKS = Marks(["<|im_end|>", "[INST]"])
ALPHABET = set('<|im_end>[INST]"\\')
TEXT = st.text("<|imend>[]ab \n\t_éßǅ1-", max_size=25)
PART = st.text("<|im a\n", min_size=1, max_size=3)


def marked(text: str) -> Marked:
    out = MARKS.mark(text)
    assert isinstance(out, Marked)
    return out


def same(got: Any, want: Any) -> None:
    """As the real string has it, and with no character of the alphabet unmarked."""
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            same(one, other)
    elif isinstance(want, str):
        assert text_of(got) == want
        assert not ALPHABET & set(str.__str__(got))
        assert MARKS.clean(str.__str__(got)) == want
    else:
        assert got == want


@given(TEXT)
def test_marking_and_cleaning(text: str) -> None:
    value = marked(text)
    same(value, text)
    assert value == text
    assert text == value
    assert hash(value) == hash(text)
    as_key: dict[str, int] = {value: 1}
    assert {text: 1}[value] == as_key[text] == 1
    assert len(value) == len(text)
    assert str(value) is value
    same(list(value), list(text))
    same(repr(value), repr(text))


def test_without_control_tokens_nothing_is_marked() -> None:
    assert type(Marks().mark("<b>")) is str


UNARY = ["strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "upper", "lower", "title", "capitalize"]
UNARY += ["swapcase", "casefold", "isdigit", "isalpha", "isspace", "isupper", "islower", "isidentifier", "expandtabs"]


@pytest.mark.parametrize("name", UNARY)
@given(text=TEXT)
def test_methods_without_arguments(name: str, text: str) -> None:
    same(getattr(marked(text), name)(), getattr(text, name)())


BINARY = ["split", "rsplit", "partition", "rpartition", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix"]
BINARY += ["startswith", "endswith", "find", "rfind", "count", "__contains__", "__eq__", "__ne__", "__lt__", "__ge__"]


@pytest.mark.parametrize("name", BINARY)
@given(text=TEXT, other=PART)
def test_methods_with_a_string(name: str, text: str, other: str) -> None:
    want = getattr(text, name)(other)
    same(getattr(marked(text), name)(other), want)
    same(getattr(marked(text), name)(marked(other)), want)


@given(TEXT, PART, PART, st.integers(-1, 3))
def test_replace(text: str, old: str, new: str, count: int) -> None:
    same(marked(text).replace(old, marked(new), count), text.replace(old, new, count))
    assert text_of(marked(text).replace(old, new, count)) == text.replace(old, new, count)
    same(marked(text).replace("", marked(new), count), text.replace("", new, count))


@given(TEXT, st.integers(-30, 30), st.integers(-30, 30), st.sampled_from([None, 1, 2, -1]))
def test_slices(text: str, start: int, stop: int, step: int | None) -> None:
    same(marked(text)[start:stop:step], text[start:stop:step])
    same(marked(text).split(None, abs(start)), text.split(None, abs(start)))
    same(marked(text).rsplit(None, abs(start)), text.rsplit(None, abs(start)))
    same(marked(text).splitlines(True), text.splitlines(True))


@given(TEXT, TEXT)
def test_joining(a: str, b: str) -> None:
    same(marked(a) + marked(b), a + b)
    same(marked(a) * 2, a * 2)
    same(2 * marked(a), 2 * a)
    same(marked(a).join([marked(b)] * 3), a.join([b] * 3))
    for mixed in (
        marked(a) + "<|" + marked(b),
        "" + marked(a) + "<|" + marked(b),
        join_text("<|", [marked(a), marked(b)]),
    ):
        assert text_of(mixed) == a + "<|" + b
        assert str.__str__(mixed).count("<|") == 1  # what was not marked before is not now
        assert MARKS.clean(str.__str__(mixed)) == a + "<|" + b


COPIERS: list[Callable[[str], str]] = [
    lambda s: f"{s}",
    lambda s: f"{s:>40}",
    lambda s: "%s" % s,  # noqa: UP031
    lambda s: "%(x)s" % {"x": s},  # noqa: UP031
    lambda s: "".join([s, "b"]),
    lambda s: "a".join([s, s]),
    lambda s: "x".replace("x", s),
    lambda s: str([s]),
    lambda s: f"{s!r}",
    "{}".format,
]


@pytest.mark.parametrize("copy", COPIERS)
def test_code_that_knows_no_marks_keeps_them(copy: Callable[[str], str]) -> None:
    assert not {"<", "|", "[I"} & set(str.__str__(copy(marked("<|im_end|>"))).strip("[]'"))


def test_upper_case_makes_no_unmarked_letters() -> None:
    """The alphabet of ``[INST]`` has no small letters, but what they become is in it."""
    same(marked("inst").upper(), "INST")
    same(marked("ſt").upper(), "ST")


def test_too_many_characters_to_mark() -> None:
    with pytest.raises(TemplateError, match="different characters"):
        Marks([chr(0x4E00 + i) for i in range(3000)])
