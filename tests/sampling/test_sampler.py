"""The Sampler: composition, determinism, `sample` against `distribution`, refusal of logits that are not numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.core import SamplingParams
from edgeinfer.errors import EngineError, NumericError, UsageError
from edgeinfer.sampling import Sampled, Sampler
from edgeinfer.sampling.samplers import Floats

OPEN: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # nothing truncates


class Only:
    """A constraint that admits a fixed set of tokens."""

    def __init__(self, *allowed: int) -> None:
        self.allowed = list(allowed)
        self.accepted: list[int] = []
        self.finished = False

    def mask(self, logits: Floats) -> None:
        kept = logits[self.allowed]
        logits.fill(-np.inf)
        logits[self.allowed] = kept

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)

    def fits(self, token_ids: Sequence[int]) -> int:
        return next((i for i, token_id in enumerate(token_ids) if token_id not in self.allowed), len(token_ids))


def row(n: int = 50, seed: int = 0, scale: float = 3.0) -> Floats:
    values = (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)
    values.flags.writeable = False  # an engine's view
    return values


def sampler(n: int = 50, prompt: tuple[int, ...] = (), **settings: Any) -> Sampler:
    return Sampler(SamplingParams(**settings), n, prompt)


def test_greedy_takes_the_best_and_the_lowest_of_equals() -> None:
    assert sampler(4, temperature=0).sample(np.array([1, 3, 3, 0], np.float32)) == Sampled(1)


def test_a_read_only_row_is_left_alone() -> None:
    logits = row()
    before = logits.copy()
    one = sampler(prompt=(1, 2, 3), repeat_penalty=1.5, logprobs=3, logit_bias={4: 9.0}, seed=1)
    one.sample(logits)
    one.distribution(logits)
    np.testing.assert_array_equal(logits, before)


def test_same_seed_same_tokens_whatever_runs_beside() -> None:
    def text(seed: int, disturb: bool) -> list[int]:
        one, other = sampler(seed=seed), sampler(seed=seed + 1)
        ids = []
        for step in range(40):
            if disturb:
                np.random.seed(step)
                other.sample(row(seed=step))
                one.distribution(row(seed=step + 7))
            ids.append(one.sample(row(seed=step)).token_id)
            one.accept(ids[-1])
        return ids

    assert text(5, False) == text(5, True)
    assert text(5, False) != text(6, False)


def test_this_seed_draws_these_tokens() -> None:
    """Texts are reproducible across releases: a change of generator, order of draws or chain shows here."""
    one = sampler(seed=42)
    rows = [(3 * np.sin(np.arange(50) * (1 + step))).astype(np.float32) for step in range(12)]
    assert [one.sample(logits).token_id for logits in rows] == [21, 48, 5, 16, 38, 43, 10, 16, 33, 36, 19, 21]


def test_a_fresh_seed_is_reported_and_replays() -> None:
    first = sampler()
    again = sampler(seed=first.seed)
    assert [first.sample(row(seed=s)) for s in range(20)] == [again.sample(row(seed=s)) for s in range(20)]
    assert sampler().seed != first.seed


@pytest.mark.parametrize(
    "settings",
    [
        {},
        OPEN,
        {**OPEN, "temperature": 2.5},
        {**OPEN, "top_k": 7},
        {**OPEN, "top_p": 0.7},
        {**OPEN, "min_p": 0.2},
        {**OPEN, "typical_p": 0.6},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9, "temperature": 1.3},
        {"repeat_penalty": 1.4, "presence_penalty": 0.3, "logit_bias": {3: 2.0}},
        {"temperature": 0.0},
    ],
)
@pytest.mark.parametrize("n", [50, 3000])
def test_sample_draws_from_distribution(settings: dict[str, Any], n: int) -> None:
    one = sampler(n, prompt=(1, 2, 3, 3), seed=7, **settings)
    logits = row(n, seed=3, scale=2.0)
    expected = one.distribution(logits)
    assert expected.sum() == pytest.approx(1.0, abs=1e-6)
    draws = 3000
    counts = np.bincount([one.sample(logits).token_id for _ in range(draws)], minlength=n)
    assert (counts[expected == 0] == 0).all()
    common = expected * draws >= 5
    rest = draws - counts[common].sum(), draws - expected[common].sum() * draws
    chi2 = float((((counts - expected * draws) ** 2)[common] / (expected * draws)[common]).sum())
    if rest[1] >= 5:
        chi2 += float((rest[0] - rest[1]) ** 2 / rest[1])
    degrees = int(common.sum())
    assert chi2 < degrees + 5 * np.sqrt(2 * degrees) + 5


def test_the_chain_runs_in_llama_cpps_order() -> None:
    """Truncations look at probabilities before temperature: heat must not let in what min-p cut."""
    logits = np.log(np.array([0.6, 0.3, 0.08, 0.02], np.float64)).astype(np.float32)
    hot = sampler(4, top_k=0, top_p=1.0, min_p=0.2, temperature=100.0)
    np.testing.assert_allclose(hot.distribution(logits), [0.5, 0.5, 0, 0], atol=0.01)
    # top-k comes first, so top-p sees 0.667 and 0.333 and keeps one
    narrow = sampler(4, top_k=2, top_p=0.65, min_p=0.0, temperature=1.0)
    assert narrow.distribution(logits).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_greedy_distribution_is_one_hot() -> None:
    assert sampler(3, temperature=0).distribution(np.array([0, 5, 1], np.float32)).tolist() == [0, 1, 0]


def test_logprobs_are_the_models_before_temperature_and_truncation() -> None:
    chances = np.array([0.5, 0.25, 0.125, 0.125])
    one = sampler(4, temperature=0.3, top_k=1, logprobs=3)
    got = one.sample(np.log(chances).astype(np.float32))
    assert got.token_id == 0
    assert got.logprob == pytest.approx(np.log(0.5), abs=1e-6)
    assert [c.token_id for c in got.top] == [0, 1, 2]
    assert [c.logprob for c in got.top] == pytest.approx(np.log(chances[:3]).tolist(), abs=1e-6)
    alone = sampler(4, temperature=0, logprobs=0).sample(np.zeros(4, np.float32))
    assert alone.logprob == pytest.approx(np.log(0.25))
    assert alone.top == ()


def test_logprobs_list_only_what_the_constraint_admits() -> None:
    one = Sampler(SamplingParams(logprobs=5, temperature=0), 10, (), constraint=Only(2, 7))
    got = one.sample(row(10))
    assert sorted(c.token_id for c in got.top) == [2, 7]
    assert sum(np.exp(c.logprob) for c in got.top) == pytest.approx(1.0, abs=1e-6)


def test_penalties_see_prompt_and_answer() -> None:
    one = sampler(3, prompt=(0,), temperature=0, presence_penalty=2.0)
    logits = np.array([3.0, 2.0, 1.5], np.float32)
    ids = []
    for _ in range(3):
        ids.append(one.sample(logits).token_id)
        one.accept(ids[-1])
    assert ids == [1, 2, 0]


def test_a_long_answer_outgrows_its_buffer() -> None:
    one = sampler(1000, prompt=(0,), temperature=0, presence_penalty=2.0, penalty_last_n=-1)
    logits = np.zeros(1000, np.float32)
    for expected in range(1, 1000):
        assert one.sample(logits).token_id == expected
        one.accept(expected)


def test_constraint_masks_advances_and_finishes() -> None:
    only = Only(3, 4)
    one = Sampler(SamplingParams(seed=1), 50, (), constraint=only)
    assert {one.sample(row(seed=s)).token_id for s in range(20)} == {3, 4}
    one.accept(3)
    assert only.accepted == [3]
    assert not one.finished
    only.finished = True
    assert one.finished
    assert not sampler().finished


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_no_token_left_is_an_error_not_a_random_token(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, ignore_eos=True)
    one = Sampler(params, 50, (), constraint=Only(9), eos_ids=(9,))
    for choose in (one.sample, one.distribution):
        with pytest.raises(EngineError, match="no token can follow"):
            choose(row())


@pytest.mark.parametrize("settings", [{"temperature": 0}, {}, OPEN, {"temperature": 0, "repeat_penalty": 1.2}])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("n", [50, 5000])
def test_logits_that_are_not_numbers_never_become_a_token(settings: dict[str, Any], wrong: float, n: int) -> None:
    logits = row(n).copy()
    logits[n - 3] = wrong
    one = sampler(n, prompt=(1,), **settings)
    for choose in (one.sample, one.distribution):
        with pytest.raises(NumericError, match=r"1 (NaN|infinite)|and 1 infinite"):
            choose(logits)
    for bad in (np.full(n, np.nan, np.float32), np.full(n, -np.inf, np.float32)):
        with pytest.raises(NumericError):
            one.sample(bad)


def test_a_mask_does_not_hide_a_nan() -> None:
    logits = row().copy()
    logits[20] = np.nan
    with pytest.raises(NumericError):
        Sampler(SamplingParams(temperature=0), 50, (), constraint=Only(1)).sample(logits)


def test_minus_infinity_is_an_impossible_token() -> None:
    logits = np.full(50, -np.inf, np.float32)
    logits[[4, 9]] = 1.0
    assert np.flatnonzero(sampler().distribution(logits)).tolist() == [4, 9]


@pytest.mark.parametrize("logits", [np.zeros(49, np.float32), np.zeros((1, 50), np.float32), np.zeros(50, np.float64)])
def test_a_row_of_another_shape_or_type_is_refused(logits: npt.NDArray[Any]) -> None:
    with pytest.raises(UsageError, match="must be float32"):
        sampler().sample(logits)


def test_token_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(UsageError, match="prompt has token 50"):
        sampler(prompt=(1, 50))
    with pytest.raises(UsageError, match="prompt has token -1"):
        sampler(prompt=(-1,))
    with pytest.raises(UsageError, match="eos_ids has token 99"):
        Sampler(SamplingParams(), 50, (), eos_ids=(99,))
    with pytest.raises(UsageError, match="token 50 is accepted"):
        sampler().accept(50)
