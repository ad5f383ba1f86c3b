"""Text out of tokens: the same however it is cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.text import StopMatcher, StreamDecoder
from edgeinfer.text.byte_tokenizer import ByteTokenizer

TOKENS = ByteTokenizer()


def streamed(data: bytes) -> list[str]:
    decoder = StreamDecoder(TOKENS)
    return [*(decoder.feed(byte) for byte in data), decoder.flush()]


@given(st.text())
def test_characters_come_whole(text: str) -> None:
    pieces = streamed(text.encode())
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


@given(st.binary())
def test_any_bytes_decode_as_they_do_at_once(data: bytes) -> None:
    assert "".join(streamed(data)) == data.decode("utf-8", "replace") == TOKENS.decode(data)


def test_invalid_bytes_are_replaced_once() -> None:
    assert streamed(b"a\xe4\xbdb") == ["a", "", "", "\ufffdb", ""]
    assert streamed(b"\xf0\x9f\x98") == ["", "", "", "\ufffd"]


def test_control_tokens_are_silent_and_break_nothing() -> None:
    decoder = StreamDecoder(TOKENS)
    assert [decoder.feed(i) for i in (0xC3, 256, 0xA9)] == ["", "", "é"]


def test_a_decoder_can_be_used_again() -> None:
    decoder = StreamDecoder(TOKENS)
    decoder.feed(0xE4)
    assert decoder.flush() == "\ufffd"
    assert decoder.feed(ord("x")) == "x"


# ---- stop strings


def fed(stop: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    matcher = StopMatcher(tuple(stop))
    out, stopped = "", False
    for piece in pieces:
        text, stopped = matcher.feed(piece)
        out += text
        if stopped:
            break
    return out + matcher.flush(), stopped


def expected(stop: Sequence[str], text: str) -> tuple[str, bool]:
    """By trying every end: the first stop string that is complete, the longest where several are."""
    for end in range(1, len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


AB = st.text("ab", max_size=30)


@given(st.lists(st.text("ab", min_size=1, max_size=6), max_size=4), st.lists(AB, max_size=10))
def test_cutting_does_not_matter(stop: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    assert fed(stop, pieces) == fed(stop, [text]) == fed(stop, list(text)) == expected(stop, text)


@given(st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4), AB)
def test_nothing_more_than_needed_is_held_back(stop: list[str], text: str) -> None:
    matcher = StopMatcher(tuple(stop))
    out = ""
    for at, character in enumerate(text):
        shown, stopped = matcher.feed(character)
        out += shown
        if stopped:
            break
        held = text[len(out) : at + 1]
        assert not held or any(s.startswith(held) for s in stop)


def test_examples() -> None:
    assert fed(("END",), ["answer E", "N", "D of it"]) == ("answer ", True)
    assert fed(("END",), ["answer E", "N"]) == ("answer EN", False)
    assert fed(("\n\n", "User:"), ["hi\nUs", "er: x"]) == ("hi\n", True)
    assert fed(("abcd", "bc"), ["abcd"]) == ("a", True)
    assert fed((), ["a", "b"]) == ("ab", False)


def test_after_a_stop_nothing_comes() -> None:
    matcher = StopMatcher(("x",))
    assert matcher.feed("axb") == ("a", True)
    assert matcher.feed("more") == ("", True)
    assert matcher.flush() == ""


@pytest.mark.parametrize("stop", ["a" * 5000, "ab" * 2500])
def test_long_stop_strings_cost_no_more_per_character(stop: str) -> None:
    """A suffix check per token would be quadratic in the stop string."""
    assert fed((stop,), [stop[:-1]] * 20) == ((stop[:-1] * 20), False) or stop in stop[:-1] * 2
