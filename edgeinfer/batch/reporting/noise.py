"""Two jobs compared: the ratio of each figure, and the interval that its true value lies in 95 times of 100.

Intervals come from the bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993) over blocks of
neighbours (Künsch, 1989): rows that run side by side, and seconds that follow each other, are slow and fast together,
so that single ones would promise more than they know. Same files, same intervals: the chance has a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.batch.manifest import differences
from edgeinfer.batch.reporting.figures import QUANTILES, figures_of
from edgeinfer.batch.reporting.measured import Measured
from edgeinfer.reports.data import finite

__all__ = ["Comparison", "Ratio", "compared"]

Verdict = Literal["better", "worse", "not told apart", "too little to tell"]
Numbers = npt.NDArray[np.float64]

_N_DRAWS = 1000
_MOST_ROWS = 20_000  # of more, so many are drawn from: the interval is then a little wider than it need be
_LEAST_BLOCKS = 8
_ROWS_PER_PLACE = 2
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """``value``: the figure of a run over the baseline's. ``low`` and ``high``: None where there is too little to
    tell. ``paired``: the two computed the same rows, and were compared row by row."""

    name: str
    value: float
    low: float | None
    high: float | None
    paired: bool
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """``changed``: in what the jobs differ, by their manifests."""

    baseline: str
    run: str
    ratios: tuple[Ratio, ...]
    changed: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = finite(asdict(self))
        return found


def compared(baseline: Measured, run: Measured) -> Comparison:
    """``run`` against ``baseline``: throughput, and quantiles of the times of rows."""
    chance = np.random.default_rng(0)
    ratios = [_throughput(baseline, run, chance)]
    for name in ("latency_s", "ttft_s"):
        ratios += _quantiles(name, baseline, run, chance)
    changed = tuple(differences("", dict(baseline.job), dict(run.job)))
    return Comparison(baseline.label, run.label, tuple(one for one in ratios if one is not None), changed)


def _ratio(name: str, value: float, draws: Numbers | None, *, paired: bool, more_is_better: bool) -> Ratio | None:
    if not (np.isfinite(value) and value > 0):
        return None
    if draws is None or not np.isfinite(draws).all():
        return Ratio(name, value, None, None, paired, "too little to tell")
    low, high = (float(bound) for bound in np.quantile(draws, (0.025, 0.975)))
    verdict: Verdict = "not told apart"
    if low > 1 or high < 1:
        verdict = "better" if (low > 1) is more_is_better else "worse"
    return Ratio(name, value, low, high, paired, verdict)


# ---- throughput


def _throughput(baseline: Measured, run: Measured, chance: np.random.Generator) -> Ratio | None:
    values = [figures_of(one).generated_tps for one in (baseline, run)]
    if not values[0]:
        return None
    rates = [_rates(one) for one in (baseline, run)]
    draws = None
    if all(len(one) >= _LEAST_BLOCKS and one.mean() > 0 for one in rates):
        means = [one[chance.integers(0, len(one), (_N_DRAWS, len(one)))].mean(axis=1) / one.mean() for one in rates]
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = values[1] / values[0] * means[1] / means[0]
    return _ratio("generated_tps", values[1] / values[0], draws, paired=False, more_is_better=True)


def _rates(run: Measured) -> Numbers:
    """Tokens a second in equal stretches of about ten seconds, shorter in short jobs."""
    t, n = (np.asarray(run.timeline[name], np.float64) for name in ("t", "n_generated"))
    n_stretches = int(max(t[-1] // _SECONDS, min(t[-1] // 1.0, 2 * _LEAST_BLOCKS)))
    edges = np.linspace(0, t[-1], n_stretches + 1)
    return np.asarray(np.diff(np.interp(edges, t, n)) / np.diff(edges)) if n_stretches else np.empty(0)


# ---- times of rows


def _quantiles(name: str, baseline: Measured, run: Measured, chance: np.random.Generator) -> list[Ratio | None]:
    columns = [_in_time(one, name) for one in (baseline, run)]
    if not all(len(values) for _, values in columns):
        return []
    points = [np.quantile(values, QUANTILES) for _, values in columns]
    block = _ROWS_PER_PLACE * max(1, baseline.n_places, run.n_places)
    same_input = bool(baseline.job.get("input")) and baseline.job.get("input") == run.job.get("input")
    rows = _paired(*columns) if same_input else None
    draw: Callable[[], tuple[Numbers, Numbers]]
    if rows is not None:
        first, second = (_thinned(values) for values in rows)
        n_blocks = len(first) // block

        def draw() -> tuple[Numbers, Numbers]:
            picked = _blocks(len(first), block, chance)
            return first[picked], second[picked]
    else:
        first, second = (_thinned(values) for _, values in columns)
        n_blocks = min(len(first), len(second)) // block

        def draw() -> tuple[Numbers, Numbers]:
            return first[_blocks(len(first), block, chance)], second[_blocks(len(second), block, chance)]

    draws = None
    if n_blocks >= _LEAST_BLOCKS:
        pairs = (draw() for _ in range(_N_DRAWS))
        draws = np.array([np.quantile(b, QUANTILES) / np.quantile(a, QUANTILES) for a, b in pairs])
    return [
        _ratio(
            f"{name} p{100 * quantile:.0f}",
            float(points[1][i] / points[0][i]),
            None if draws is None else draws[:, i],
            paired=rows is not None,
            more_is_better=False,
        )
        for i, quantile in enumerate(QUANTILES)
    ]


def _in_time(run: Measured, name: str) -> tuple[Numbers, Numbers]:
    """(indexes of rows, their times) in the order in which they ended, rows without a time left out."""
    index, values = (np.asarray(run.rows[column], np.float64) for column in ("index", name))
    return index[values > 0], values[values > 0]


def _paired(first: tuple[Numbers, Numbers], second: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers] | None:
    """The times of both for the same rows, in the baseline's order; None where the rows are not the same ones."""
    if len(first[0]) != len(second[0]) or len(np.unique(first[0])) != len(first[0]):
        return None
    places = np.argsort(second[0])
    found = np.searchsorted(second[0][places], first[0])
    if found.max() >= len(places) or not np.array_equal(second[0][places][found], first[0]):
        return None
    return first[1], second[1][places][found]


def _thinned(values: Numbers) -> Numbers:
    if len(values) <= _MOST_ROWS:
        return values
    return values[np.linspace(0, len(values) - 1, _MOST_ROWS).astype(np.intp)]


def _blocks(n: int, block: int, chance: np.random.Generator) -> npt.NDArray[np.intp]:
    """``n`` positions, in stretches of ``block`` that may begin anywhere, the end joined to the beginning."""
    starts = chance.integers(0, n, -(-n // block))
    return np.asarray(((starts[:, None] + np.arange(block)) % n).ravel()[:n], np.intp)
