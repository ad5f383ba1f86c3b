"""How many drafted tokens are checked: the best number there is, by trying all."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_drafts import FLAT, STEEP

from edgeinfer.speculate.costs import ROWS, CostCurve
from edgeinfer.speculate.economy import Economy, best_length, outlook, share

patient = settings(deadline=None, max_examples=80)
CHANCES = st.lists(st.floats(0.01, 1.0), max_size=5)


def falling(chances: list[float]) -> list[float]:
    return list(itertools.accumulate(chances, lambda a, b: a * b))


@st.composite
def economies(draw: st.DrawFn) -> Economy:
    """Curves that rise, with steps."""
    steps = draw(st.lists(st.floats(0.0, 20.0), min_size=len(ROWS), max_size=len(ROWS)))
    ms = tuple(itertools.accumulate(steps, initial=10.0))[1:]
    n_rows = draw(st.integers(1, 8))
    return Economy(CostCurve((32, 512), (ms, ms), 1.0).at(32), n_rows, draw(st.integers(1, n_rows)))


def net(survival: list[float], economy: Economy, n: int, n_before: int = 0) -> float:
    return sum(survival[:n]) - (economy.growth(n_before, n) if n else 0.0)


@patient
@given(CHANCES, economies(), st.integers(0, 6))
def test_no_other_length_is_worth_more(chances: list[float], economy: Economy, n_before: int) -> None:
    survival = falling(chances)
    length, worth = best_length(survival, economy, n_before)
    assert worth == pytest.approx(net(survival, economy, length, n_before))
    assert worth == pytest.approx(max(net(survival, economy, n, n_before) for n in range(len(survival) + 1)))


@patient
@given(st.lists(CHANCES, max_size=3), economies(), st.integers(0, 8))
def test_no_other_share_is_worth_more(drafts: list[list[float]], economy: Economy, room: int) -> None:
    survivals = [falling(chances) for chances in drafts]

    def worth(lengths: tuple[int, ...]) -> float:
        n = sum(lengths)
        gained = sum(sum(survival[:n]) for survival, n in zip(survivals, lengths, strict=True))
        return gained - (economy.growth(0, n) if n else 0.0)

    taken = share(survivals, economy, room)
    assert sum(taken) <= room
    assert all(0 <= n <= len(survival) for n, survival in zip(taken, survivals, strict=True))
    every = itertools.product(*(range(len(survival) + 1) for survival in survivals))
    assert worth(tuple(taken)) == pytest.approx(max(worth(lengths) for lengths in every if sum(lengths) <= room))


@patient
@given(economies(), st.floats(0.05, 1.0), st.floats(0.1, 1.0), st.floats(0.0, 3.0), st.integers(0, 12))
def test_an_outlook_looks_past_steps(
    economy: Economy, survival: float, chance: float, draft_ms: float, n_max: int
) -> None:
    found, n_tokens = outlook(survival, chance, draft_ms, economy, 0, n_max)
    coming = [survival * chance**i for i in range(1, n_max + 1)]
    every = [net(coming, economy, n) - economy.tokens(n * draft_ms) for n in range(n_max + 1)]
    assert found == pytest.approx(max(every))
    assert n_tokens == pytest.approx(0.0) or found > 0


def test_a_prompt_beside_makes_no_draft_cheap() -> None:
    """A long pass hides what a draft adds to it; what it saves is short passes of those who decode."""
    alone, beside = (Economy(STEEP.at(32), n_rows, 4) for n_rows in (4, 68))
    assert beside.growth(0, 1) >= alone.growth(0, 1) > 0


def test_prices_decide() -> None:
    likely = falling([0.9] * 8)
    assert best_length(likely, Economy(FLAT.at(32), 1, 1))[0] == 8
    assert best_length(likely, Economy(STEEP.at(32), 1, 1))[0] == 0
    dear, cheap = (Economy(FLAT.at(32), 1, 1, gain=gain, caution=gain) for gain in (2.0, 1.0))
    assert dear.tokens(1.0) == 4 * cheap.tokens(1.0)
