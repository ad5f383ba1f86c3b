"""Figures of a job: how long rows took, how fast it was, what it kept from computing, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.batch.reporting.measured import Measured
from edgeinfer.errors import UsageError
from edgeinfer.reports.data import finite

__all__ = ["QUANTILES", "Cost", "Figures", "Price", "Spread", "figures_of", "over_time"]

QUANTILES = (0.5, 0.9, 0.99)
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds over all rows that have a result: mean, median and so on, by linear interpolation between rows."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Numbers) -> Spread | None:
        if not len(values):
            return None
        return cls(float(values.mean()), *(float(value) for value in np.quantile(values, QUANTILES)))


@dataclass(frozen=True, slots=True)
class Price:
    """What energy costs. ``watts``: what the machine takes while it works; None: as the job has measured it.
    ``per_kwh``: in any currency; None: nobody asks. Raises `UsageError`."""

    watts: float | None = None
    per_kwh: float | None = None

    def __post_init__(self) -> None:
        for name in ("watts", "per_kwh"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1e9:
                raise UsageError(f"{name} is {value!r}, but must be a number from 0")


@dataclass(frozen=True, slots=True)
class Cost:
    """``wh`` of energy in all, and for each thousand of ``n_tokens`` generated (of a job that generates none: read);
    the same in money where a price is given."""

    wh: float
    n_tokens: int
    wh_per_1k_tokens: float | None
    price: float | None
    price_per_1k_tokens: float | None
    watts: float
    is_measured: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """A job in figures. ``latency_s``, ``ttft_s`` (time to first token) and ``queue_s`` count from when a row was
    handed in, ``computing_s`` from when its turn came; ``token_s`` is the time from one token to the next. None:
    nothing to measure.

    ``generated_tps``: tokens of finished rows over all seconds; ``prompt_tps``: tokens of their prompts, known ones
    included. ``reused_share`` of prompt tokens were known from before, so that ``prefix_gain`` times fewer were read.
    ``accepted_share`` of drafted tokens were right, ``drafted_share`` of generated ones were drafted; ``draft_gain``:
    how many times faster answers came than without drafts, as far as measured costs tell."""

    label: str
    n_runs: int
    n_rows: int | None
    n_done: int
    n_failed: int
    n_retries: int
    n_places: int
    complete: bool
    seconds: float
    rows_per_s: float
    generated_tps: float
    prompt_tps: float
    latency_s: Spread | None
    ttft_s: Spread | None
    queue_s: Spread | None
    computing_s: Spread | None
    token_s: Spread | None
    n_prompt: int
    n_reused: int
    n_prefilled: int
    n_generated: int
    n_drafted: int
    n_accepted: int
    reused_share: float | None
    prefix_gain: float | None
    accepted_share: float | None
    drafted_share: float | None
    draft_gain: float | None
    peak_rss_bytes: int
    cost: Cost | None
    cost_why_not: str | None

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = finite(asdict(self))
        return found


def figures_of(run: Measured, price: Price | None = None) -> Figures:
    columns = {name: np.asarray(values, np.float64) for name, values in run.rows.items()}
    n_tokens: dict[str, Any] = {
        name: int(columns[name].sum())
        for name in ("n_prompt", "n_reused", "n_prefilled", "n_generated", "n_drafted", "n_accepted")
    }
    seconds = max(run.seconds, 1e-9)
    cost, why_not = _cost(run, price or Price(), n_tokens["n_generated"] or n_tokens["n_prompt"])
    return Figures(
        label=run.label,
        n_runs=run.n_runs,
        n_rows=run.n_rows,
        n_done=run.n_done,
        n_failed=run.n_failed,
        n_retries=run.n_retries,
        n_places=run.n_places,
        complete=run.complete,
        seconds=run.seconds,
        rows_per_s=len(columns["t"]) / seconds,
        generated_tps=n_tokens["n_generated"] / seconds,
        prompt_tps=n_tokens["n_prompt"] / seconds,
        peak_rss_bytes=run.peak_rss_bytes,
        cost=cost,
        cost_why_not=why_not,
        **_spreads(columns),
        **n_tokens,
        **_gains(columns, n_tokens),
    )


def _spreads(columns: dict[str, Numbers]) -> dict[str, Any]:
    latency, ttft, queue, n_new = (columns[name] for name in ("latency_s", "ttft_s", "queue_s", "n_generated"))
    timed = latency > 0
    follow = n_new > 1  # a row of one token has no time between tokens
    return {
        "latency_s": Spread.of(latency[timed]),
        "ttft_s": Spread.of(ttft[ttft > 0]),
        "queue_s": Spread.of(queue[timed]),
        "computing_s": Spread.of(np.maximum(latency - queue, 0)[timed]),
        "token_s": Spread.of(np.maximum(latency - ttft, 0)[follow] / (n_new[follow] - 1)),
    }


def _gains(columns: dict[str, Numbers], n: dict[str, int]) -> dict[str, Any]:
    drafted = columns["n_drafted"] > 0
    spent = np.maximum(columns["latency_s"] - columns["ttft_s"], 0)
    gain = None
    if drafted.any() and spent.sum() > 0 and np.isfinite(columns["draft_gain"]).all():
        # Rows without drafts have a gain of 1, and count as much as the time that they took.
        gain = float((spent * columns["draft_gain"]).sum() / spent.sum())
    return {
        "reused_share": _over(n["n_reused"], n["n_prompt"]),
        "prefix_gain": _over(n["n_prompt"], n["n_prefilled"]),
        "accepted_share": _over(n["n_accepted"], n["n_drafted"]),
        "drafted_share": _over(n["n_accepted"], n["n_generated"]),
        "draft_gain": gain,
    }


def _over(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _cost(run: Measured, price: Price, n_tokens: int) -> tuple[Cost | None, str | None]:
    """The cost, or why it is not known."""
    if price.watts is not None:
        joules = price.watts * run.seconds
    elif run.energy_j is not None:
        joules = run.energy_j
    else:
        return None, f"energy is not known: {run.energy_why_not}; give the machine's power with --watts"
    wh = joules / 3600
    money = None if price.per_kwh is None else wh / 1000 * price.per_kwh
    each = _over(1000, n_tokens)
    return Cost(
        wh=wh,
        n_tokens=n_tokens,
        wh_per_1k_tokens=None if each is None else wh * each,
        price=money,
        price_per_1k_tokens=None if each is None or money is None else money * each,
        watts=joules / max(run.seconds, 1e-9),
        is_measured=price.watts is None,
    ), None


def over_time(run: Measured, n_most: int = 300) -> tuple[Numbers, Numbers, Numbers]:
    """(seconds, tokens/s, resident bytes) over equal stretches of the job, at most so many; memory is each stretch's
    largest, or the last one seen."""
    t, n, rss = (np.asarray(run.timeline[name], np.float64) for name in ("t", "n_generated", "rss_bytes"))
    if not len(t) or t[-1] <= 0:
        return np.empty(0), np.empty(0), np.empty(0)
    n_stretches = int(min(n_most, max(1, t[-1] // 1.0)))
    edges = np.linspace(0, t[-1], n_stretches + 1)
    rates = np.diff(np.interp(edges, t, n)) / np.diff(edges)
    return (edges[1:] + edges[:-1]) / 2, rates, _largest(t, rss, edges)


def _largest(t: Numbers, values: Numbers, edges: Numbers) -> Numbers:
    found = np.full(len(edges) - 1, np.nan)
    where: Sequence[int] = np.clip(np.searchsorted(edges, t, side="left") - 1, 0, len(found) - 1).tolist()
    for place, value in zip(where, values.tolist(), strict=True):
        found[place] = np.fmax(found[place], value)
    seen = np.flatnonzero(np.isfinite(found))
    if len(seen):  # a second that came late has left a stretch empty
        found = found[seen[np.clip(np.searchsorted(seen, np.arange(len(found)), side="right") - 1, 0, None)]]
    return found
