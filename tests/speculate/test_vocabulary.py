"""Which token is which: by bytes and kind, wherever they stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeinfer.errors import UnsupportedModel
from edgeinfer.speculate.vocabulary import VocabularyMap, match


class Pieces:
    """A vocabulary of these pieces; names in ``control`` are control tokens, whose bytes are empty."""

    def __init__(self, pieces: Sequence[str], control: Sequence[str] = ()) -> None:
        self.n_vocab = len(pieces)
        self.control_tokens = {name: pieces.index(name) for name in control}
        self._bytes = [b"" if piece in control else piece.encode() for piece in pieces]

    def all_token_bytes(self) -> list[bytes]:
        return self._bytes

    def encode(self, _text: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        raise NotImplementedError


LETTERS = list("abcdefgh")


def test_a_vocabulary_and_itself() -> None:
    found = match(Pieces([*LETTERS, "", "<s>"], ["<s>"]), Pieces([*LETTERS, "", "<s>"], ["<s>"]))
    same = VocabularyMap.same(10)
    assert found.to_draft.tolist() == found.to_target.tolist() == same.to_draft.tolist()
    assert (found.overlap, same.overlap) == (1.0, 1.0)


def test_a_permuted_one() -> None:
    found = match(Pieces(LETTERS), Pieces(LETTERS[::-1]))
    assert found.to_draft.tolist() == found.to_target.tolist() == list(range(7, -1, -1))
    assert [found.spell(i) for i in range(8)] == [(i,) for i in range(7, -1, -1)]


def test_what_is_missing_is_spelled_with_the_longest_tokens_and_never_drafted() -> None:
    target = Pieces([*LETTERS, "abcd", "az", "é"])
    found = match(target, Pieces(["abc", *LETTERS, "only here"]))
    assert found.spell(8) == (0, 4), "abc, d"
    assert found.spell(9) == (1,), "a; there is no z"
    assert found.spell(10) == (0,), "anything: nothing spells it"
    assert found.drafts(np.array([1, 0, 9], np.int32)).tolist() == [0, -1, -1]


def test_control_tokens_are_no_text() -> None:
    """The same name as a control token and as text are two tokens, and no control token is spelled."""
    found = match(Pieces([*LETTERS, "<s>", "<t>"], ["<s>", "<t>"]), Pieces(["<s>", *LETTERS, "<t>"], ["<t>"]))
    assert found.to_draft.tolist() == [*range(1, 9), -1, 9]
    assert found.spell(8) == (0,)


def test_padding_of_either_model_is_nothing_anyone_says() -> None:
    """Rows of logits may be more than a vocabulary has tokens."""
    found = match(Pieces(LETTERS), Pieces(LETTERS[:6]))
    assert found.drafts(np.arange(9, dtype=np.int32)).tolist() == [0, 1, 2, 3, 4, 5, -1, -1, -1]
    assert found.spell(8) == found.spell(200) == (0,)


def test_the_lowest_of_equal_tokens_is_drafted() -> None:
    found = match(Pieces(["b", "a", "a"]), Pieces(["a", "b", "b"]))
    assert found.to_draft.tolist() == [1, 0, 0]
    assert found.to_target.tolist() == [1, 0, -1]


def test_a_token_without_end_is_spelled_by_its_last_bytes() -> None:
    found = match(Pieces([*LETTERS, "ab" * 50_000]), Pieces([*LETTERS, "ba" * 50_000]))
    assert found.spell(8) == (0, 1) * 32


def test_strangers_are_refused_by_what_they_share() -> None:
    with pytest.raises(UnsupportedModel, match=r"^tiny cannot draft for big: it has 3 of its 8 tokens \(38 %\)"):
        match(Pieces(LETTERS), Pieces(["a", "b", "c", "x", "y", "z"]), ("big", "tiny"))
