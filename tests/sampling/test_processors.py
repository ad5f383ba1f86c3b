"""Penalties, bias and bans against llama.cpp's formulas written out."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.core import SamplingParams
from edgeinfer.errors import UsageError
from edgeinfer.sampling.processors import History, processors_for


def processed(logits: list[float], history: list[int], eos_ids: tuple[int, ...] = (), **settings: Any) -> list[float]:
    row = np.array(logits, np.float32)
    ids: History = np.array(history, np.int32)
    for process in processors_for(SamplingParams(**settings), len(logits), eos_ids):
        row = process(ids, row)
    return [float(value) for value in row]


def test_neutral_settings_need_no_processor() -> None:
    assert processors_for(SamplingParams(), 10, (2,)) == ()
    assert processors_for(SamplingParams(repeat_penalty=1.3, penalty_last_n=0), 10, ()) == ()


def test_repetition_divides_positive_and_multiplies_negative_logits() -> None:
    assert processed([2.0, -2.0, 1.0, 0.0], [0, 1, 1, 3], repeat_penalty=2.0) == [1.0, -4.0, 1.0, 0.0]


def test_frequency_counts_and_presence_does_not() -> None:
    assert processed([1.0, 1.0, 1.0], [0, 0, 1], frequency_penalty=0.5) == [0.0, 0.5, 1.0]
    assert processed([1.0, 1.0, 1.0], [0, 0, 1], presence_penalty=0.5) == [0.5, 0.5, 1.0]


def test_only_the_last_n_tokens_count() -> None:
    history = [0, 1, 2]
    assert processed([1.0] * 4, history, presence_penalty=1.0, penalty_last_n=1) == [1.0, 1.0, 0.0, 1.0]
    assert processed([1.0] * 4, history, presence_penalty=1.0, penalty_last_n=100) == [0.0, 0.0, 0.0, 1.0]
    assert processed([1.0] * 4, history, presence_penalty=1.0, penalty_last_n=-1) == [0.0, 0.0, 0.0, 1.0]


@settings(deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=20, max_size=20),
    st.lists(st.integers(0, 19), max_size=1500),
    st.sampled_from((-1, 1, 7, 64, 2000)),
    st.floats(0.5, 2.0),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
def test_penalties_match_llama_cpp(
    logits: list[float], history: list[int], last_n: int, repeat: float, frequency: float, presence: float
) -> None:
    expected = list(logits)
    for token, count in Counter(history if last_n < 0 else history[-last_n:]).items():
        value = logits[token]
        value = value * repeat if value <= 0 else value / repeat
        expected[token] = value - count * frequency - presence
    penalties: dict[str, Any] = {"repeat_penalty": repeat, "frequency_penalty": frequency, "presence_penalty": presence}
    got = processed(logits, history, penalty_last_n=last_n, **penalties)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_bias_comes_before_penalties() -> None:
    assert processed([1.0, 0.0], [0], logit_bias={0: 3.0, 1: -100.0}, repeat_penalty=2.0) == [2.0, -100.0]


def test_ignore_eos_forbids_every_end() -> None:
    assert processed([1.0, 2.0, 3.0], [], eos_ids=(0, 2), ignore_eos=True) == [-np.inf, 2.0, -np.inf]


def test_the_impossible_stays_impossible_and_nothing_becomes_infinite() -> None:
    assert processed([-np.inf, 0.0], [0], logit_bias={0: 100.0}, presence_penalty=-2.0) == [-np.inf, 0.0]
    huge = processed([3.0, -3.0, 1.0], [0, 1], logit_bias={2: 1e308}, repeat_penalty=1e300)
    assert np.isfinite(huge).all()
    assert np.isfinite(processed([3.0, -3.0], [0, 1], repeat_penalty=1e-300)).all()


@pytest.mark.parametrize("token_id", [-1, 10])
def test_bias_of_an_unknown_token_is_refused(token_id: int) -> None:
    with pytest.raises(UsageError, match=f"logit_bias names token {token_id}"):
        processors_for(SamplingParams(logit_bias={token_id: 1.0}), 10, ())
