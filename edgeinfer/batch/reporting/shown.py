"""Figures of jobs for people: lines of a table, a page, a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeinfer.batch.reporting.figures import Figures, Spread, over_time
from edgeinfer.batch.reporting.measured import Measured
from edgeinfer.batch.reporting.noise import Comparison, Ratio
from edgeinfer.reports import chart, picture
from edgeinfer.reports.chart import Curve
from edgeinfer.reports.page import page, paragraph, section, table

__all__ = ["COMPARISON", "Panel", "comparison_lines", "lines", "panels", "report_page", "report_picture"]

COMPARISON = ("figure", "ratio", "from", "to", "verdict")
_COLOURS = ("#0a66b5", "#b3460f", "#1a7340", "#7a3fb0", "#7a6400")
_TIMES = (
    ("waiting for its turn", "queue_s"),
    ("to the first token", "ttft_s"),
    ("to the end", "latency_s"),
    ("from its turn to the end", "computing_s"),
    ("from token to token", "token_s"),
)


# ---- tables


def lines(found: Sequence[Figures]) -> list[tuple[str, ...]]:
    """(what, its value in each job), for everything that any of them knows."""
    wanted: list[tuple[str, Callable[[Figures], str]]] = [
        ("rows done", lambda one: f"{one.n_done}" + ("" if one.n_rows is None else f" of {one.n_rows}")),
        ("rows failed", lambda one: f"{one.n_failed}"),
        ("retries", lambda one: f"{one.n_retries}" if one.n_retries else ""),
        ("runs", lambda one: f"{one.n_runs}" if one.n_runs > 1 else ""),
        ("finished", lambda one: "yes" if one.complete else "no"),
        ("rows at once", lambda one: f"{one.n_places}"),
        ("time", lambda one: _time(one.seconds)),
        ("rows/s", lambda one: f"{one.rows_per_s:.3g}"),
        ("tokens/s generated", lambda one: f"{one.generated_tps:.1f}"),
        ("tokens/s of prompts", lambda one: f"{one.prompt_tps:.1f}"),
        *((f"{what}, {name}", _quantile(field, name)) for what, field in _TIMES for name in ("p50", "p90", "p99")),
        ("tokens generated", lambda one: f"{one.n_generated}"),
        ("tokens of prompts", lambda one: f"{one.n_prompt}"),
        ("  known from before", lambda one: _share(one.reused_share, one.n_reused)),
        ("  read fewer by", lambda one: _times(one.prefix_gain)),
        ("tokens drafted", lambda one: f"{one.n_drafted}" if one.n_drafted else ""),
        ("  of these right", lambda one: _share(one.accepted_share, one.n_drafted)),
        ("  of all generated", lambda one: _share(one.drafted_share, one.n_drafted)),
        ("  faster by", lambda one: _times(one.draft_gain)),
        ("memory at most", lambda one: f"{one.peak_rss_bytes / 2**20:.0f} MiB"),
        ("power", lambda one: _cost(one, lambda c: f"{c.watts:.1f} W, {'measured' if c.is_measured else 'as given'}")),
        ("energy", lambda one: _cost(one, lambda c: f"{c.wh:.3g} Wh")),
        ("  per 1k tokens", lambda one: _cost(one, lambda c: _number(c.wh_per_1k_tokens, " Wh"))),
        ("cost", lambda one: _cost(one, lambda c: _number(c.price))),
        ("  per 1k tokens", lambda one: _cost(one, lambda c: _number(c.price_per_1k_tokens))),
    ]
    table = [(what, *(show(one) for one in found)) for what, show in wanted]
    return [line for line in table if any(line[1:])]


def comparison_lines(found: Comparison) -> list[tuple[str, ...]]:
    """Lines under `COMPARISON`."""
    return [(_name(one), f"{one.value:.3f}", _bound(one.low), _bound(one.high), one.verdict) for one in found.ratios]


def _name(ratio: Ratio) -> str:
    head, _, quantile = ratio.name.partition(" ")
    names = {"generated_tps": "tokens/s generated", "latency_s": "to the end", "ttft_s": "to the first token"}
    return f"{names[head]}, {quantile}" if quantile else names[head]


def _bound(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _quantile(field: str, name: str) -> Callable[[Figures], str]:
    def show(one: Figures) -> str:
        spread: Spread | None = getattr(one, field)
        return "" if spread is None else _seconds(getattr(spread, name))

    return show


def _seconds(value: float) -> str:
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 1000 else _time(value)


def _time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{seconds:.1f} s" if seconds < 60 else f"{minutes // 60:.0f}:{minutes % 60:02.0f}:{int(rest):02}"


def _share(value: float | None, shown: float) -> str:
    return "" if value is None or not shown else f"{value:.1%}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.4g}{unit}"


def _cost(one: Figures, show: Callable[..., str]) -> str:
    return "" if one.cost is None else show(one.cost)


# ---- charts


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart, whoever draws it."""

    x_label: str
    y_label: str
    curves: tuple[Curve, ...]


def panels(runs: Sequence[Measured]) -> list[Panel]:
    """Tokens/s and memory over time, and the times of rows from the quickest to the slowest."""
    series = [(run.label, *over_time(run)) for run in runs]
    shares = np.linspace(0, 1, 101)
    latencies = [(run.label, np.asarray([v for v in run.rows["latency_s"] if v > 0])) for run in runs]
    found = [
        Panel("seconds", "tokens/s", tuple(Curve(label, t.tolist(), tps.tolist()) for label, t, tps, _ in series)),
        Panel(
            "seconds",
            "memory (MiB)",
            tuple(Curve(label, t.tolist(), (m / 2**20).tolist()) for label, t, _, m in series),
        ),
        Panel(
            "% of rows that take no longer",
            "seconds to the end",
            tuple(
                Curve(label, (100 * shares).tolist(), np.quantile(values, shares).tolist())
                for label, values in latencies
                if len(values)
            ),
        ),
    ]
    return [panel for panel in found if any(np.isfinite(curve.ys).any() for curve in panel.curves)]


def report_page(runs: Sequence[Measured], found: Sequence[Figures], against: Sequence[Comparison]) -> str:
    """A whole document."""
    heads = ("", *(one.label for one in found))
    parts = [section("Figures", table(heads, lines(found), kinds=("", *["number"] * len(found))))]
    unknown = {one.cost_why_not for one in found if one.cost_why_not}
    parts += [paragraph(why, "soft") for why in sorted(unknown)]
    for comparison in against:
        note = (
            "A ratio's true value lies between its bounds 95 times of 100 (bootstrap over blocks of rows and seconds)."
        )
        body = [table(COMPARISON, comparison_lines(comparison), kinds=("", "number", "number", "number", ""))]
        body += [paragraph(note, "soft")]
        body += [paragraph(f"The jobs differ: {'; '.join(comparison.changed)}", "soft")] if comparison.changed else []
        parts.append(section(f"{comparison.run} against {comparison.baseline}", *body))
    for panel in panels(runs):
        drawn = chart.curves(panel.curves, x_label=panel.x_label, y_label=panel.y_label)
        parts.append(section(f"{panel.y_label}", drawn))
    return page("Batch jobs", *parts)


def report_picture(runs: Sequence[Measured]) -> bytes:
    """The charts as a PNG. Raises `BackendUnavailable` without matplotlib."""
    wanted = panels(runs)
    figure = picture.figure(5.2 * max(1, len(wanted)), 4.2)
    for number, panel in enumerate(wanted, 1):
        axes = figure.add_subplot(1, len(wanted), number)
        for i, curve in enumerate(panel.curves):
            name = curve.name.replace("$", r"\$").lstrip("_")  # matplotlib would set formulas, and hide the name
            axes.plot(
                curve.xs,
                curve.ys,
                label=name,
                color=_COLOURS[i % len(_COLOURS)],
                marker="" if len(curve.xs) > 1 else ".",
            )
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        ys = [y for curve in panel.curves for y in curve.ys if np.isfinite(y)]
        if chart.spread_out(ys):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if len(panel.curves) > 1:
            axes.legend(fontsize=8)
    return picture.png(figure)
