"""Figures from logits, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer import metrics

RNG = np.random.default_rng(3)


def rows(n: int, width: int = 50, spread: float = 4.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return (RNG.standard_normal((n, width)) * spread).astype(np.float32)


def test_kl_is_the_sum_it_is_defined_as() -> None:
    a, b = rows(21), rows(21)
    for x, y, found in zip(a, b, metrics.kl_divergence(a, b), strict=True):
        p, q = (np.exp(row.astype(float)) / np.exp(row.astype(float)).sum() for row in (x, y))
        assert found == pytest.approx(float(sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))))


def test_equal_rows_are_nothing_apart() -> None:
    a = rows(5)
    assert metrics.kl_divergence(a, a.copy()).tolist() == [0.0] * 5
    found = metrics.distances(a, a.copy(), 10)
    assert (found.kl.max(), found.difference.max(), found.overlap.min()) == (0.0, 0.0, 1.0)
    assert found.agree.all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.001, 30))
def test_kl_is_never_below_nothing_and_does_not_mind_a_shift(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal((3, 40)).astype(np.float32) * np.float32(spread) for _ in range(2))
    found = metrics.kl_divergence(a, b)
    assert (found >= 0).all()
    shifted = metrics.kl_divergence(a.astype(float) + 7, b.astype(float) - 3)
    assert shifted == pytest.approx(found, rel=1e-6, abs=1e-9)


def test_the_parts_of_a_distance() -> None:
    a = np.array([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5]], np.float32)
    b = np.array([[5, 4, 1, 2, 3], [9, 2, 3, 4, 5]], np.float32)
    found = metrics.distances(a, b, 3)
    assert found.agree.tolist() == [True, False]
    assert (found.first_reference.tolist(), found.first.tolist()) == ([0, 4], [0, 0])
    assert found.overlap.tolist() == pytest.approx([2 / 3, 2 / 3])
    assert found.difference.tolist() == pytest.approx([2.0, 8 - 8 / 5])
    assert metrics.distances(a, b, 99).overlap.tolist() == [1.0, 1.0]


def test_chunks_make_no_difference() -> None:
    a, b = rows(40), rows(40)
    whole = metrics.distances(a, b, 5)
    parts = metrics.Distances.joined([metrics.distances(a[i : i + 7], b[i : i + 7], 5) for i in range(0, 40, 7)])
    for name in ("kl", "first", "first_reference", "overlap", "difference"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name


def test_token_logprobs() -> None:
    a, ids = rows(19), RNG.integers(0, 50, 19)
    assert metrics.token_logprobs(a, ids).tolist() == pytest.approx(
        [float(metrics.log_softmax(row)[i]) for row, i in zip(a, ids, strict=True)]
    )
    assert np.exp(metrics.log_softmax(a)).sum(axis=1) == pytest.approx(1.0)


def test_perplexity_of_an_even_guess_is_the_number_of_choices() -> None:
    found = metrics.perplexity(np.full(300, -math.log(64)))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((64, 64, 64, 300))


def test_one_token_tells_nothing_about_the_spread() -> None:
    found = metrics.perplexity(np.array([-1.0]))
    assert (found.low, found.high) == (0.0, math.inf)


@pytest.mark.parametrize("depends", [False, True])
def test_intervals_cover(depends: bool) -> None:
    """Of 300 texts with a known perplexity, about 95 of 100 intervals hold it, also where losses come in runs."""
    rng, covered = np.random.default_rng(11), 0
    for _ in range(300):
        noise = rng.standard_normal(640)
        losses = np.repeat(rng.standard_normal(160), 4) if depends else noise
        found = metrics.perplexity(-(2.0 + losses))
        covered += found.low <= math.exp(2) <= found.high
    assert 0.88 <= covered / 300 <= 0.985


def test_a_ratio_on_the_same_tokens_is_much_surer_than_two_perplexities() -> None:
    losses = RNG.exponential(2.0, 400)
    found = metrics.perplexity_ratio(-(losses + 0.01 + 0.001 * RNG.standard_normal(400)), -losses)
    assert found.value == pytest.approx(math.exp(0.01), rel=1e-3)
    assert 1.0 < found.low < found.high < 1.02
    apart = metrics.perplexity(-losses)
    assert apart.high / apart.low > 1.2


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_a_share_has_wilsons_interval(right: int, n: int, low: float, high: float) -> None:
    found = metrics.proportion(right, n)
    assert (found.value, found.low, found.high) == pytest.approx((right / n, low, high), abs=1e-4)
