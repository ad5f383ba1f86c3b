"""WordPiece as BERT's own tokenizer does it: text is cleaned and cut at spaces, punctuation and Chinese characters, and
each word spelt with the longest pieces there are.

llama.cpp has it too, and departs from it in scripts with vowel signs and in Korean; so vocabularies of this kind are
not given to it. Knows no model.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping

__all__ = ["WordPiece"]

_MAX_WORD = 100  # characters; a longer word is unknown
_BEGIN = "\u2581"
_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


class WordPiece:
    """``pieces``: ids by text, U+2581 before those that begin a word. ``lowercase`` and ``strip_accents`` as the model
    was trained."""

    def __init__(self, pieces: Mapping[str, int], unknown: int, *, lowercase: bool, strip_accents: bool) -> None:
        self._pieces, self._unknown = pieces, unknown
        self._lowercase, self._strip_accents = lowercase, strip_accents
        self._longest = max(map(len, pieces), default=1)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without anything around it."""
        ids: list[int] = []
        for word in _words(self._normalized(text)):
            ids += self._spelt(word)
        return ids

    def _normalized(self, text: str) -> str:
        text = "".join(map(_cleaned, text))
        if self._strip_accents:
            text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        # Letter by letter: a sigma that ends a word is one like any other.
        return "".join(c.lower() for c in text) if self._lowercase else text

    def _spelt(self, word: str) -> list[int]:
        if len(word) > _MAX_WORD:
            return [self._unknown]
        ids, left, begin = [], _BEGIN + word, 0
        while begin < len(left):
            for end in range(min(len(left), begin + self._longest), begin, -1):
                found = self._pieces.get(left[begin:end])
                if found is not None:
                    break
            else:
                return [self._unknown]
            ids.append(found)
            begin = end
        return ids


def _cleaned(character: str) -> str:
    """Spaces for all white space and around Chinese characters, nothing for what cannot be seen."""
    if character in "\t\n\r" or character.isspace():
        return " "
    if character in "\0\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs"):
        return ""
    code = ord(character)
    if code >= 0x3400 and any(low <= code <= high for low, high in _CHINESE):
        return f" {character} "
    return character


def _words(text: str) -> Iterator[str]:
    """Runs between spaces, with punctuation apart."""
    for run in text.split():
        begin = 0
        for at, character in enumerate(run):
            if character in _PUNCTUATION or unicodedata.category(character).startswith("P"):
                if begin < at:
                    yield run[begin:at]
                yield character
                begin = at + 1
        if begin < len(run):
            yield run[begin:]
