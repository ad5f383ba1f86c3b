"""The automaton against plain search: every context, its continuations and their counts, for texts that repeat."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.speculate.automaton import ROOT, SuffixAutomaton

patient = settings(deadline=None, max_examples=80)  # the machine that runs the tests may be busy
LAST_ID = 2**31 - 1
ids = st.sampled_from((0, 1, 2, LAST_ID))  # few, so that texts repeat; with both ends of any vocabulary
texts = st.lists(ids, max_size=24)


def automaton_of(*sequences: list[int]) -> SuffixAutomaton:
    text = SuffixAutomaton()
    for n, sequence in enumerate(sequences):
        if n:
            text.close()
        text.extend(sequence)
    return text


def occurs(needle: list[int], sequences: tuple[list[int], ...]) -> bool:
    width = len(needle)
    return any(needle == text[i : i + width] for text in sequences for i in range(len(text) - width + 1))


def longest_suffix(tokens: list[int], *sequences: list[int]) -> int:
    return max(n for n in range(len(tokens) + 1) if occurs(tokens[len(tokens) - n :], sequences))


def followers(context: list[int], text: list[int]) -> list[int]:
    """What came after each occurrence, in order."""
    width = len(context)
    return [text[i + width] for i in range(len(text) - width) if text[i : i + width] == context]


@patient
@given(texts, texts)
def test_match_is_the_longest_known_suffix(text: list[int], tokens: list[int]) -> None:
    automaton = automaton_of(text)
    for end in range(len(tokens) + 1):
        assert automaton.match(tokens[:end])[1] == longest_suffix(tokens[:end], text)


@patient
@given(st.lists(texts, min_size=2, max_size=4), texts)
def test_no_match_crosses_from_one_sequence_into_the_next(sequences: list[list[int]], tokens: list[int]) -> None:
    automaton = automaton_of(*sequences)
    assert automaton.match(tokens)[1] == longest_suffix(tokens, *sequences)


def test_a_closed_sequence_has_no_continuation() -> None:
    automaton = automaton_of([1, 2], [3, 4])
    state, n_matched = automaton.match([1, 2])
    assert n_matched == 2
    assert automaton.usual_token[state] < 0
    assert automaton.step(state, n_matched, 3) == automaton.match([3])


@patient
@given(st.lists(ids, max_size=16))
def test_counts_and_usual_continuations_of_every_context(text: list[int]) -> None:
    """16 tokens have no more contexts at one place than are counted."""
    automaton = automaton_of(text)
    for begin in range(len(text)):
        for end in range(begin + 1, len(text) + 1):
            context = text[begin:end]
            state, n_matched = automaton.match(context)
            assert n_matched == len(context)
            came = followers(context, text)
            assert automaton.n_followed[state] == len(came)
            assert automaton.n_seen[state] == len(came) + (text[-len(context) :] == context)
            if not came:
                assert automaton.usual_token[state] == -1
                continue
            counts = Counter(came)
            usual = automaton.usual_token[state]
            assert counts[usual] == max(counts.values())
            assert automaton.n_seen[automaton.usual_state[state]] >= counts[usual]


@patient
@given(texts, st.integers(1, 3))
def test_where_not_all_contexts_are_counted_each_counted_one_has_a_counted_continuation(
    text: list[int], n: int
) -> None:
    """Shares are logarithms of these: a zero would be an error in the middle of an answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinfer.speculate.automaton._N_COUNTED", n)
        automaton = automaton_of(text)
    for state in range(1, len(automaton)):
        if automaton.n_followed[state]:
            assert automaton.n_seen[automaton.usual_state[state]] > 0


def test_the_latest_of_equals_is_usual() -> None:
    automaton = automaton_of([7, 1, 7, 2])
    assert automaton.usual_token[automaton.match([7])[0]] == 2
    automaton.extend([7, 1])
    assert automaton.usual_token[automaton.match([7])[0]] == 1
    automaton.extend([7, 3])
    assert automaton.usual_token[automaton.match([7])[0]] == 1  # twice, against once


@patient
@given(texts, texts)
def test_stepping_is_matching_and_changes_nothing(text: list[int], tokens: list[int]) -> None:
    automaton = automaton_of(text)
    n_states, last = len(automaton), automaton.last
    place = (ROOT, 0)
    for end, token in enumerate(tokens, 1):
        place = automaton.step(*place, token)
        assert place == automaton.match(tokens[:end])
    assert (len(automaton), automaton.last) == (n_states, last)


@patient
@given(st.lists(texts, max_size=4))
def test_links_lead_to_shorter_suffixes_and_states_stay_few(pieces: list[list[int]]) -> None:
    """Grown in pieces or at once, the same; at most two states a token."""
    text = [token for piece in pieces for token in piece]
    grown = SuffixAutomaton()
    for piece in pieces:
        grown.extend(piece)
    at_once = automaton_of(text)
    for name in ("link", "length", "n_seen", "n_followed", "usual_token", "usual_state"):
        assert getattr(grown, name) == getattr(at_once, name)
    assert len(grown) <= 2 * len(text) + 1
    for state in range(1, len(grown)):
        assert grown.length[grown.link[state]] < grown.length[state]


@pytest.mark.parametrize("period", [1, 2, 5, 50, 100_000])
def test_growing_takes_linear_time(period: int) -> None:
    """Also for a text of one token, which has as many contexts at each place as tokens before it."""

    def n_lines(n_tokens: int) -> int:
        """Lines of Python that it takes: the same on every machine, however busy."""
        automaton, n = SuffixAutomaton(), 0

        def count(_frame: object, event: str, _argument: object) -> Any:
            nonlocal n
            n += event == "line"
            return count

        tokens = [i * i % 7919 % period for i in range(n_tokens)]
        before = sys.gettrace()
        sys.settrace(count)
        try:
            automaton.extend(tokens)
        finally:
            sys.settrace(before)
        return n

    assert n_lines(4_000) < 5.5 * n_lines(1_000)  # four times the tokens; quadratic would be sixteen times
