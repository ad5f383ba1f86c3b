"""The space that some tokenizers put before a text, where llama.cpp does otherwise. Knows strings, no vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["SpacePrefix"]

_SIGNS = (" ", "\u2581")


@dataclass(frozen=True, slots=True)
class SpacePrefix:
    """``kind``, which our converters write: ``true`` for before every piece of text between tokens that are found as
    they stand, ``unless_space`` for where none is there already, ``first`` for before the whole text alone; nothing
    where llama.cpp does as the model wants. ``native``: llama.cpp puts one before every piece. ``words``: tokens that
    users have defined."""

    kind: str = ""
    native: bool = False
    words: frozenset[str] = frozenset()

    def begun(self, text: str) -> str:
        """A whole text of which no control token is the first, as ``first`` has it."""
        plain = self.kind != "first" or not text or text[0] in _SIGNS
        return text if plain or any(text.startswith(word) for word in self.words) else " " + text

    def pieces(self, text: str) -> Iterator[str]:
        """What llama.cpp is to be given one by one; an empty piece stands for a space alone."""
        if self.kind in ("", "first"):
            yield from [text] if text else []
            return
        for part in self._between_words(text):
            if part in self.words:
                yield part
                continue
            there = self.kind == "unless_space" and part[0] in _SIGNS
            if self.native:
                yield part[1:] if there else part
            else:
                yield part if there else " " + part

    def _between_words(self, text: str) -> list[str]:
        pattern = "|".join(map(re.escape, sorted(self.words, key=len, reverse=True)))
        return [part for part in (re.split(f"({pattern})", text) if pattern else [text]) if part]
