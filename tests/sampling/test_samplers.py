"""The truncations against plain, slow references: rows short and long, sure and unsure, with ties and bans."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer import kernels
from edgeinfer.sampling import samplers

Floats = npt.NDArray[np.float32]
patient = settings(deadline=None, max_examples=60)  # the machine that runs the tests may be busy
SIZES = (1, 2, 40, 1024, 1025, 5000, 60_000)


@st.composite
def rows(draw: st.DrawFn) -> Floats:
    """A row of logits: of any size above, flat to peaked, perhaps coarse (many ties), perhaps partly impossible."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = rng.standard_normal(draw(st.sampled_from(SIZES))).astype(np.float32) * draw(
        st.sampled_from((0.0, 0.3, 3.0, 20.0))
    )
    if draw(st.booleans()):
        row = np.round(row)
    if draw(st.booleans()):
        row[rng.random(row.size) < draw(st.sampled_from((0.1, 0.9, 0.9999)))] = -np.inf
    if not np.isfinite(row).any():
        row[0] = 0.0
    return np.asarray(row, np.float32)


def probabilities(row: Floats) -> npt.NDArray[np.float64]:
    weights = np.exp(row.astype(np.float64) - float(row.max()))
    return np.asarray(weights / weights.sum())


def best_first(keys: npt.NDArray[np.floating]) -> list[int]:
    return sorted(np.flatnonzero(keys > -np.inf).tolist(), key=lambda i: (-float(keys[i]), i))


def assert_smallest_set(
    kept: npt.NDArray[np.intp], order: list[int], chances: npt.NDArray[np.float64], p: float
) -> None:
    """``kept`` is a prefix of ``order`` that reaches ``p``, and would not without its last (but for rounding)."""
    assert kept.tolist() == sorted(order[: len(kept)])
    mass = float(chances[order[: len(kept)]].sum())
    assert mass >= p - 1e-5
    assert len(kept) == 1 or mass - chances[order[len(kept) - 1]] < p + 1e-5


@patient
@given(rows(), st.integers(1, 3000))
def test_top_k_is_the_sorted_prefix(row: Floats, k: int) -> None:
    assert samplers.top_k(row, k).tolist() == best_first(row)[:k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "available", lambda: False)
        assert samplers.top_k(row, k).tolist() == best_first(row)[:k]


@patient
@given(rows())
def test_top_k_of_zero_is_everything_possible_in_order(row: Floats) -> None:
    assert samplers.top_k(row, 0).tolist() == best_first(row)


@patient
@given(rows(), st.floats(0.001, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(row: Floats, p: float) -> None:
    assert_smallest_set(samplers.top_p(row, p), best_first(row), probabilities(row), p)


@patient
@given(rows(), st.floats(0.001, 1.0))
def test_min_p_keeps_what_is_probable_beside_the_best(row: Floats, p: float) -> None:
    ratio = np.exp(row.astype(np.float64) - float(row.max()))
    kept = np.zeros(row.size, bool)
    kept[samplers.min_p(row, p)] = True
    assert kept[row == row.max()].all()
    assert kept[ratio > p * (1 + 1e-5)].all()
    assert not kept[ratio < p * (1 - 1e-5)].any()


@patient
@given(rows(), st.floats(0.001, 0.999))
def test_typical_keeps_the_least_surprising_surprises(row: Floats, p: float) -> None:
    chances = probabilities(row)
    with np.errstate(divide="ignore"):
        surprise = -np.log(chances)
    entropy = float(sum(chances[chances > 0] * surprise[chances > 0]))
    kept = samplers.typical(row, p)
    distance = np.abs(surprise - entropy)
    mass = float(chances[kept].sum())
    assert mass >= p - 1e-5
    # Nothing left out is clearly closer than anything kept, and the farthest kept was needed.
    left_out = np.setdiff1d(np.flatnonzero(row > -np.inf), kept)
    if left_out.size:
        assert distance[kept].max() <= distance[left_out].min() + 1e-3
    far = kept[distance[kept] > distance[kept].max() - 1e-3]
    assert mass - chances[far].sum() < p + 1e-5


@pytest.mark.parametrize("truncate", [samplers.top_p, samplers.typical])
def test_a_vocabulary_of_equals_is_cut_from_the_lowest_ids(
    truncate: Callable[[Floats, float], npt.NDArray[np.intp]],
) -> None:
    assert truncate(np.zeros(100_000, np.float32), 0.25).tolist() == list(range(25_000))


def test_neutral_min_p_keeps_every_possible_token() -> None:
    assert samplers.min_p(np.array([0.0, -np.inf, -80.0], np.float32), 0.0).tolist() == [0, 2]


@patient
@given(rows(), st.sampled_from((1e-300, 1e-6, 0.1, 0.8, 1.0, 5.0, 1e300)))
def test_weights_are_a_softmax_at_any_temperature(row: Floats, temperature: float) -> None:
    weights = samplers.weigh(row, temperature)
    assert weights[row.argmax()] == 1.0
    with np.errstate(over="ignore"):
        expected = np.exp((row.astype(np.float64) - float(row.max())) / temperature)
    if temperature >= 0.1:
        np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-30)


@patient
@given(st.integers(0, 2**32), st.sampled_from((3, 1024, 1025, 50_000)), st.floats(0, 1, exclude_max=True))
def test_draw_inverts_the_running_sum(seed: int, size: int, uniform: float) -> None:
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random(size) < 0.5, 0.0, rng.random(size))
    weights[rng.integers(size)] = 1.0
    position = samplers.draw(weights, uniform)
    ends = np.cumsum(weights) / weights.sum()
    assert weights[position] > 0
    assert ends[position] >= uniform - 1e-9
    assert position == 0 or ends[position - 1] <= uniform + 1e-9


@pytest.mark.parametrize("size", [3, 5000])
@pytest.mark.parametrize("uniform", [0.0, math.nextafter(1.0, 0.0)])
def test_draw_never_returns_a_token_of_no_weight(size: int, uniform: float) -> None:
    weights = np.zeros(size)
    weights[1] = 0.1
    assert samplers.draw(weights, uniform) == 1


@patient
@given(st.integers(0, 2**32))
def test_greedy_takes_the_lowest_id_of_equals(seed: int) -> None:
    row = np.round(np.random.default_rng(seed).standard_normal(5000)).astype(np.float32)
    assert samplers.greedy(row) == int(np.flatnonzero(row == row.max())[0])
