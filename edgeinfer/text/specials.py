"""Where the texts of special tokens stand in a text. Knows strings and ids, not what they are for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

__all__ = ["SpecialFinder", "cut_points", "none_of"]


class SpecialFinder:
    """Finds token texts, leftmost first and the longest at each place, in time linear in the text.

    A plain alternation of thousands of literals (Gemma has 6,250 control tokens) would try each of them at every ``<``.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens = tokens
        lengths: dict[str, set[int]] = {}
        for text in tokens:
            lengths.setdefault(text[:2], set()).add(len(text))
        self._lengths = {prefix: sorted(known, reverse=True) for prefix, known in lengths.items()}
        firsts = "".join(sorted({re.escape(text[0]) for text in tokens}))
        self._candidate = re.compile(f"[{firsts}]" if firsts else r"(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Each match as ``(start, end, token_id)``, in order, none overlapping another."""
        at = 0
        while match := self._candidate.search(text, at):
            start = match.start()
            at = start + 1
            for prefix in (text[start : start + 2], text[start]):
                token = self._longest(text, start, self._lengths.get(prefix, ()))
                if token is not None:
                    yield (start, *token)
                    at = token[0]
                    break

    def _longest(self, text: str, start: int, lengths: Collection[int]) -> tuple[int, int] | None:
        for length in lengths:
            token_id = self._tokens.get(text[start : start + length])
            if token_id is not None:
                return start + length, token_id
        return None


def cut_points(texts: Collection[str], other: str = "") -> re.Pattern[str] | None:
    """Where a tokenizer that always takes ``texts`` as tokens can be fed a text in pieces: before any match of the
    pattern.

    ``other`` is a further pattern to cut before, of texts that share no character with these. None where there is no
    such place, or cutting would not be exact: where one text begins as another ends, the choice depends on the whole.
    Runs of one character (Gemma has a token for each of 2 to 31 spaces) overlap too, but there the longest is taken
    first in pieces as in the whole.
    """
    if _overlap(texts):
        return None
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    pattern = "|".join([*filter(None, [other]), *map(re.escape, longest_first)])
    return re.compile(pattern) if pattern else None


def _overlap(texts: Collection[str]) -> bool:
    runs = {text for text in texts if len(set(text)) == 1}
    of_others = {text[:n] for text in texts if text not in runs for n in range(1, len(text))}
    of_any = of_others | {text[:n] for text in runs for n in range(1, len(text))}
    return any(text[-n:] in (of_others if text in runs else of_any) for text in texts for n in range(1, len(text)))


def none_of(characters: Collection[str]) -> str:
    """A pattern for one character that is none of these, written in ranges: `re` looks at what is beyond U+FFFF one by
    one."""
    codes = sorted(map(ord, characters))
    starts = [code for i, code in enumerate(codes) if i == 0 or codes[i - 1] != code - 1]
    ends = [code for i, code in enumerate(codes) if i == len(codes) - 1 or codes[i + 1] != code + 1]
    return "[^" + "".join(f"\\U{start:08x}-\\U{end:08x}" for start, end in zip(starts, ends, strict=True)) + "]"
