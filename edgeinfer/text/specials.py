"""Where the texts of special tokens stand in a text. Knows strings and ids, not what they are for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["ControlTokens", "TokenIds", "cut_points", "none_of"]

TokenIds = npt.NDArray[np.int32]


_SPACE = " \t\n\v\f\r"  # isspace() of the C locale, which llama.cpp strips by


class ControlTokens(dict[str, int]):
    """A vocabulary's control tokens: text to id, and how to find them in a text, in time linear in the text.

    ``strip_before`` and ``strip_after`` are the ids that take the white space beside them away (those of Phi-3 do).
    Do not change it once made.
    """

    def __init__(
        self, tokens: Mapping[str, int], strip_before: Collection[int] = (), strip_after: Collection[int] = ()
    ) -> None:
        super().__init__((text, token_id) for text, token_id in tokens.items() if text)
        self._strip_before, self._strip_after = frozenset(strip_before), frozenset(strip_after)
        # A plain alternation of thousands of literals (Gemma has 6,250) would try each of them at every "<".
        lengths: dict[str, set[int]] = {}
        for text in self:
            lengths.setdefault(text[:2], set()).add(len(text))
        self._lengths = {prefix: sorted(known, reverse=True) for prefix, known in lengths.items()}
        firsts = "".join(sorted({re.escape(text[0]) for text in self}))
        self._candidate = re.compile(f"[{firsts}]" if firsts else r"(?!)")

    def encode(self, marked: str, text: str, encode: Callable[[str], TokenIds]) -> TokenIds:
        """Ids of ``text`` with control tokens exactly where ``marked`` spells them; ``encode`` is for all that is
        between.

        ``marked`` is ``text``, character by character, with stand-ins for those that must not become part of a control
        token. Without any stand-in the result is llama.cpp's own with ``parse_special``.
        """
        parts: list[TokenIds] = []
        at, strip = 0, False
        for start, end, token_id in self.find(marked):
            between = _stripped(text[at:start], left=strip, right=token_id in self._strip_before)
            parts += [encode(between)] if between else []
            parts.append(np.array([token_id], np.int32))
            at, strip = end, token_id in self._strip_after
        between = _stripped(text[at:], left=strip, right=False)
        parts += [encode(between)] if between else []
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def find(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Each control token as ``(start, end, token_id)``: leftmost first, the longest at each place, none
        overlapping."""
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
            token_id = self.get(text[start : start + length])
            if token_id is not None:
                return start + length, token_id
        return None


def _stripped(text: str, *, left: bool, right: bool) -> str:
    text = text.lstrip(_SPACE) if left else text
    return text.rstrip(_SPACE) if right else text


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
