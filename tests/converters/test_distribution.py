"""How values are spread, found in pieces, and the steps that hold them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.converters.to_onnx.distribution import Distribution, Steps, best_steps

Floats = npt.NDArray[np.float32]
RNG = np.random.default_rng(1)


def of(*pieces: Floats) -> Distribution:
    found = Distribution()
    for piece in pieces:
        found.add(piece)
    return found


def stored(values: Floats, steps: Steps) -> Floats:
    """By the operators' own formula."""
    q = np.clip(np.rint(values / steps.scale) + steps.zero_point, 0, 2**steps.bits - 1)
    found: Floats = ((q - steps.zero_point) * steps.scale).astype(np.float32)
    return found


CASES = {
    "normal": RNG.standard_normal(50000),
    "lopsided": RNG.gamma(0.3, 2.0, 50000),
    "negative": -np.abs(RNG.standard_normal(50000)) - 3,
    "far ones": np.concatenate([RNG.standard_normal(50000), [900.0, -400.0]]),
    "tiny": 1e-20 * RNG.standard_normal(5000),
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("case", CASES)
def test_what_is_told_is_what_happens(case: str, bits: int) -> None:
    """Errors come of a histogram; the shares of what is clipped are exact but for values in the last bin."""
    values = CASES[case].astype(np.float32)
    steps = best_steps(of(values), bits)
    lost = float(np.square(stored(values, steps).astype(np.float64) - values).sum())
    assert steps.error == pytest.approx(lost, rel=0.1)
    assert steps.power == pytest.approx(float(np.square(values.astype(np.float64)).sum()), rel=0.02)
    least, greatest = (steps.scale * (end - steps.zero_point) for end in (-0.5, 2**bits - 0.5))
    clipped = ((values < least) | (values > greatest)).mean()
    assert steps.clipped == pytest.approx(clipped, abs=3e-4)
    assert steps.n == len(values)


def test_zero_is_exact() -> None:
    for values in CASES.values():
        steps = best_steps(of(values.astype(np.float32)), 8)
        assert stored(np.zeros(1, np.float32), steps) == 0


def test_the_best_steps_lose_less() -> None:
    """Much less where few values are far: with 8 bits those would leave nothing for the others."""
    values = np.concatenate([RNG.standard_normal(200000), [100.0, -100.0]]).astype(np.float32)
    best = best_steps(of(values), 8)
    widest = replace(best, scale=np.float32(200 / 255), zero_point=128)
    assert 0 < best.clipped < 1e-3
    lost = [float(np.square(stored(values, steps) - values).sum()) for steps in (best, widest)]
    assert lost[0] < 0.8 * lost[1]


def test_pieces_are_as_good_as_the_whole() -> None:
    values = CASES["far ones"].astype(np.float32)
    whole, pieces = of(values), of(*np.array_split(values, 17), np.empty(0, np.float32))
    assert best_steps(whole, 8) == best_steps(pieces, 8)
    assert best_steps(Distribution(), 8).scale == 1  # of nothing, and of zeros
    assert best_steps(of(np.zeros(9, np.float32)), 8).error == 0
