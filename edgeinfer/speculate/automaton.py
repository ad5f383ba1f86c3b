"""A suffix automaton over token ids, grown token by token: every substring of a text, and what followed it.

Blumer et al., "The smallest automaton recognizing the subwords of a text", Theoretical Computer Science 40 (1985). A
state stands for all substrings that end at the same places of the text; its suffix link leads to the longest shorter
suffix that ends at more places. On top of that each state counts how often it occurred and how often something
followed, and knows what followed most often, so that a draft looks up its next token instead of searching for it.

Knows nothing of requests, and nothing of chances."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

__all__ = ["ROOT", "SuffixAutomaton"]

ROOT = 0
"""The state of the empty context."""

_NONE = -1
_END = -2
"""Follows the last token of a closed sequence. No token has this id, so no match reaches beyond it."""
_N_COUNTED = 16
"""Contexts of one place in the text that are counted, longest first. Ordinary text has fewer than ten; where one token
is repeated n times there are n, and counting them all would take quadratic time."""


class SuffixAutomaton:
    """The substrings of one text, or of several: `close` keeps a sequence apart from the next.

    The arrays hold one entry a state, to be read by whoever weighs the evidence. The root's counts stay zero. A text
    of n tokens makes at most 2n states and 3n edges, in time linear in n; in memory that is about 130 bytes a token of
    ordinary text."""

    def __init__(self) -> None:
        self.link = array("i")  # the next shorter context that ends at more places; -1 for the root
        self.length = array("i")  # of the longest string of the state
        self.n_seen = array("i")  # how often it occurred
        self.n_followed = array("i")  # how often something came after it
        self.usual_token = array("i")  # what came most often, the latest of equals; negative: nothing, or an end
        self.usual_state = array("i")  # where that leads
        self._edges: dict[int, dict[int, int]] = {}  # all edges of those states that have more than the usual one
        self.last = self._add(_NONE, 0)
        """The state of the whole text."""

    def __len__(self) -> int:
        """Number of states, the root included."""
        return len(self.link)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens, none of them negative."""
        for token in tokens:
            self._append(token)

    def close(self) -> None:
        """End the sequence: nothing that comes later follows it."""
        self._append(_END)

    def step(self, state: int, n_matched: int, token: int) -> tuple[int, int]:
        """From the longest known suffix of a text, in ``state`` and ``n_matched`` tokens long, to that of the text with
        one more token. Changes nothing."""
        while (following := self._next(state, token)) == _NONE:
            state = self.link[state]
            if state == _NONE:
                return ROOT, 0
            n_matched = self.length[state]
        return following, n_matched + 1

    def match(self, tokens: Sequence[int]) -> tuple[int, int]:
        """The longest suffix of ``tokens`` that occurs in the text: its state, and its length in tokens."""
        state, n_matched = ROOT, 0
        for token in tokens:
            state, n_matched = self.step(state, n_matched, token)
        return state, n_matched

    # ---- growing

    def _append(self, token: int) -> None:
        before = self.last
        state = self.last = self._add(ROOT, self.length[before] + 1)
        at, known = before, _NONE
        while at != _NONE and (known := self._next(at, token)) == _NONE:
            self._connect(at, token, state)
            at = self.link[at]
        if at != _NONE:
            self.link[state] = self._split(at, token, known)
        self._count(before, token)

    def _split(self, at: int, token: int, known: int) -> int:
        """The state of exactly the strings up to that of ``at`` and ``token``: ``known``, or its clone when that holds
        longer strings too, which do not end here."""
        if self.length[known] == self.length[at] + 1:
            return known
        clone = self._add(self.link[known], self.length[at] + 1)
        for evidence in (self.n_seen, self.n_followed, self.usual_token, self.usual_state):
            evidence[clone] = evidence[known]
        if known in self._edges:
            self._edges[clone] = self._edges[known].copy()
        self.link[known] = clone
        while at != _NONE and self._next(at, token) == known:
            self._connect(at, token, clone)
            at = self.link[at]
        return clone

    def _count(self, before: int, token: int) -> None:
        """Note for each context of the newest token that it occurred, and for each before it what came next."""
        link, n_seen = self.link, self.n_seen
        state = self.last
        for _ in range(_N_COUNTED):
            n_seen[state] += 1
            state = link[state]
            if state == ROOT:
                break
        for _ in range(_N_COUNTED):
            if before == ROOT:
                break
            self.n_followed[before] += 1
            if self.usual_token[before] != token:
                following = self._edges[before][token]
                if n_seen[following] >= n_seen[self.usual_state[before]]:
                    self.usual_token[before], self.usual_state[before] = token, following
            before = link[before]

    def _next(self, state: int, token: int) -> int:
        if self.usual_token[state] == token:
            return self.usual_state[state]
        edges = self._edges.get(state)
        return _NONE if edges is None else edges.get(token, _NONE)

    def _connect(self, state: int, token: int, following: int) -> None:
        usual = self.usual_token[state]
        edges = self._edges.get(state)
        if edges is not None:
            edges[token] = following
        elif usual not in (_NONE, token):
            self._edges[state] = {usual: self.usual_state[state], token: following}
        if usual in (_NONE, token):
            self.usual_token[state], self.usual_state[state] = token, following

    def _add(self, link: int, length: int) -> int:
        self.link.append(link)
        self.length.append(length)
        self.n_seen.append(0)
        self.n_followed.append(0)
        self.usual_token.append(_NONE)
        self.usual_state.append(_NONE)
        return len(self.link) - 1
