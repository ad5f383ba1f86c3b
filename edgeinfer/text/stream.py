"""Text out of tokens, as they come: whole characters only, and nothing of a stop string. Knows neither models nor
requests."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from edgeinfer.text.tokenizer import Vocabulary

__all__ = ["StopMatcher", "StreamDecoder"]


class StreamDecoder:
    """Token ids in, text out; half a character waits for its other half.

    The texts of all `feed` calls and of `flush`, joined, equal the decoding of all ids at once. Bytes that are no UTF-8
    become U+FFFD. One request each; not thread-safe.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete, and for control tokens."""
        return self._decoder.decode(self._vocabulary.token_bytes(token_id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never got its end. Ready for another text afterwards."""
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Text in, text that may be shown out; holds back only what could still become a stop string.

    The stop string that ends first wins; of those that end together, the longest. Neither it nor what follows is given
    out. The result does not depend on how the text is cut into pieces. Work per character is constant (one
    Knuth-Morris-Pratt automaton a stop string). One request each; not thread-safe.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.matched: str | None = None
        """The stop string that has ended the text."""
        self._stops = [pattern for pattern in stop if pattern]
        self._failures = [_failure(pattern) for pattern in self._stops]
        self._states = [0] * len(self._stops)
        self._first = frozenset(pattern[0] for pattern in self._stops)
        self._held = ""
        self._stopped = False

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that is now safe to show, and whether a stop string has ended it. After a stop: always ``("",
        True)``."""
        if self._stopped:
            return "", True
        if not self._held and self._first.isdisjoint(text):
            return text, False
        pending = self._held + text
        for at in range(len(self._held), len(pending)):
            longest = self._advance(pending[at])
            if longest:
                self._stopped, self._held = True, ""
                self.matched = pending[at + 1 - longest : at + 1]
                return pending[: at + 1 - longest], True
        keep = len(pending) - max(self._states)
        self._held = pending[keep:]
        return pending[:keep], False

    def flush(self) -> str:
        """What was held back, now that nothing can follow it; empty after a stop."""
        held, self._held = self._held, ""
        self._states = [0] * len(self._stops)
        return held

    def _advance(self, character: str) -> int:
        """Take one character; the length of the longest stop string that it completes, or 0."""
        longest = 0
        for index, pattern in enumerate(self._stops):
            state, failure = self._states[index], self._failures[index]
            while state and pattern[state] != character:
                state = failure[state - 1]
            if pattern[state] == character:
                state += 1
            if state == len(pattern):
                longest = max(longest, state)
                state = failure[state - 1]
            self._states[index] = state
        return longest


def _failure(pattern: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    table = [0] * len(pattern)
    length = 0
    for index in range(1, len(pattern)):
        while length and pattern[index] != pattern[length]:
            length = table[length - 1]
        if pattern[index] == pattern[length]:
            length += 1
        table[index] = length
    return table
