"""A drafter that needs no model: what followed the same tokens before.

Owns what a request's own text and earlier answers say about what comes next, and how far that is to be trusted. Knows
nothing of logits, of engines, or of what a draft costs.

Candidates are the usual continuations of the longest context seen before and of its shorter suffixes, as in suffix
decoding (Oliaro et al. 2024, https://arxiv.org/abs/2411.04975) and, for compression, PPM* (Cleary and Teahan 1997). A
draft grows token by token, each time from the context best supported by then, so that it can pass from one earlier
place to another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeinfer.speculate.automaton import ROOT, SuffixAutomaton
from edgeinfer.speculate.base import Draft

__all__ = ["NgramDrafter"]

TokenIds = npt.NDArray[np.int32]
_Place = tuple[int, int]
"""In a text: the state of the longest known suffix, and how many tokens of it match."""

_N_REMEMBERED = 65_536
_N_LEAD = 8
"""Tokens of a prompt that are remembered with its answer, so that an answer's first tokens have a context."""
_LEAST_SURVIVAL = 0.02
"""A draft ends where it is no likelier than this to be right so far: no machine checks a token for so little."""

# Log odds that a candidate is right, fitted by logistic regression to greedy texts of Qwen2.5-Coder-1.5B (code, edits,
# extraction, chat, summaries). Few and coarse on purpose: fits to two different sets of prompts agree within 0.2, and
# neither more of them nor learning as a request goes on made better drafts of the other set.
_BASE = -0.8  # a little under the fit, since the best of several candidates is taken
_PER_DOUBLED_LENGTH = 0.78
_PER_DOUBLED_COUNT = 0.82
_PER_LOG_SHARE = 1.84
_DIVIDED = -1.57  # something else has followed too
_FOREIGN = -1.0  # seen in another request
_LONGEST, _MOST = 32, 16  # longer contexts and higher counts say no more than these
_BY_LENGTH = (0.0, *(_PER_DOUBLED_LENGTH * math.log2(n) for n in range(1, _LONGEST + 1)))
_BY_COUNT = (0.0, *(_PER_DOUBLED_COUNT * math.log2(n) for n in range(1, _MOST + 1)))
_N_CONTEXTS = 3
"""Contexts that are asked in each text, longest first."""


class NgramDrafter:
    """Drafts from earlier occurrences of what a request ends in: in its own tokens and in answers to ended requests.

    For one thread. Memory: about 130 bytes a token of each live request, next to some tens of kilobytes that its KV
    takes, and at most ``n_remembered`` tokens (about 9 MB) of ended ones, the oldest dropped first. The same calls
    give the same drafts."""

    def __init__(self, n_remembered: int = _N_REMEMBERED) -> None:
        self._requests: dict[int, _Request] = {}
        self._memory = _Memory(n_remembered)

    def propose(self, key: int, tokens: TokenIds, k: int) -> Draft:
        """At most ``k`` tokens that may follow ``tokens``: int32, prompt and answer so far of request ``key``.

        The first call with a key should come with the prompt; later ones with any number of tokens more, and what was
        proposed for them does not matter. ``k`` of 0 only takes the tokens in. Raises `ValueError` where a key's tokens
        are fewer than before."""
        request = self._requests.get(key)
        if request is None:
            request = self._requests[key] = _Request(tokens)
        else:
            request.follow(tokens)
        recent = tokens[-_LONGEST:].tolist()
        texts = (request.text, *self._memory.texts)
        places = [(request.text.last, len(tokens)), *(text.match(recent) for text in self._memory.texts)]
        return _draft(texts, places, k)

    def end(self, key: int, tokens: TokenIds) -> None:
        """The request has ended with these tokens. Its answer is remembered; its prompt is not, for where that matters
        again it is in the later prompt. A request never drafted for is remembered whole."""
        request = self._requests.pop(key, None)
        n_prompt = request.n_prompt if request else 0
        if len(tokens) > n_prompt:
            self._memory.add(tokens[max(0, n_prompt - _N_LEAD) :].tolist())

    def forget(self) -> None:
        """Drop what is remembered of ended requests."""
        self._memory.clear()


class _Memory:
    """The newest answers, in two texts of half the bound each: when the younger is full, the older goes."""

    def __init__(self, n_tokens: int) -> None:
        self._n_each = n_tokens // 2
        self.texts: tuple[SuffixAutomaton, ...] = ()

    def add(self, tokens: Sequence[int]) -> None:
        tokens = tokens[-self._n_each + 1 :]  # one token's room for the end
        if self._n_each < 2:
            return
        if not self.texts or self.texts[0].length[self.texts[0].last] + len(tokens) + 1 > self._n_each:
            self.texts = (SuffixAutomaton(), *self.texts[:1])
        self.texts[0].extend(tokens)
        self.texts[0].close()

    def clear(self) -> None:
        self.texts = ()


class _Request:
    """One live request: its text, grown as its tokens come."""

    def __init__(self, prompt: TokenIds) -> None:
        self.n_prompt = self._n_tokens = len(prompt)
        self.text = SuffixAutomaton()
        self.text.extend(prompt.tolist())

    def follow(self, tokens: TokenIds) -> None:
        if len(tokens) < self._n_tokens:
            raise ValueError(f"tokens of a request only grow: there were {self._n_tokens}, now {len(tokens)}")
        self.text.extend(tokens[self._n_tokens :].tolist())
        self._n_tokens = len(tokens)


def _draft(texts: Sequence[SuffixAutomaton], places: Sequence[_Place], k: int) -> Draft:
    """At most ``k`` tokens from these places. Changes nothing."""
    token_ids: list[int] = []
    chances: list[float] = []
    survival = 1.0
    while len(token_ids) < k:
        token, log_odds = _guess(texts, places)
        if token < 0:
            break
        chance = 1 / (1 + math.exp(-log_odds))
        survival *= chance
        if survival < _LEAST_SURVIVAL:
            break
        token_ids.append(token)
        chances.append(chance)
        places = [text.step(*place, token) for text, place in zip(texts, places, strict=True)]
    return Draft(np.array(token_ids, np.int32), np.array(chances, np.float32))


def _guess(texts: Sequence[SuffixAutomaton], places: Sequence[_Place]) -> tuple[int, float]:
    """The likeliest next token by any of the texts, the first of which is the request's own, and the log odds that it
    is right; a negative token where nothing is known."""
    best, best_odds = -1, -math.inf
    prior = _BASE
    for text, place in zip(texts, places, strict=True):
        token, log_odds = _candidate(text, *place)
        if log_odds + prior > best_odds:
            best, best_odds = token, log_odds + prior
        prior = _BASE + _FOREIGN
    return best, best_odds


def _candidate(text: SuffixAutomaton, state: int, n_matched: int) -> tuple[int, float]:
    """What a text says comes next, and the evidence for it in log odds (without the base rate)."""
    best, best_odds = -1, -math.inf
    n_left = _N_CONTEXTS
    while state > ROOT and n_left:
        n_followed, token = text.n_followed[state], text.usual_token[state]
        if n_followed and token >= 0:
            n_left -= 1
            log_odds = _BY_LENGTH[min(n_matched, _LONGEST)] + _BY_COUNT[min(n_followed, _MOST)]
            n_agreed = text.n_seen[text.usual_state[state]]
            if n_agreed < n_followed:
                log_odds += _PER_LOG_SHARE * math.log(n_agreed / n_followed) + _DIVIDED
            if log_odds > best_odds:
                best, best_odds = token, log_odds
        state = text.link[state]
        n_matched = text.length[state]
    return best, best_odds
