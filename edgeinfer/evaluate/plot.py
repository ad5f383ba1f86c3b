"""Quality against size and against speed: as a page, and as a picture where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeinfer.evaluate.report import Row, cells, headings
from edgeinfer.evaluate.tasks import SETS
from edgeinfer.reports import chart
from edgeinfer.reports import picture as pictures
from edgeinfer.reports.chart import Dot, spread_out
from edgeinfer.reports.page import page, paragraph, section, table

__all__ = ["evaluate_page", "picture"]

_SIZE, _SPEED = "size (MB)", "decode (tokens/s)"


def _quality(rows: Sequence[Row]) -> tuple[str, list[Dot]]:
    """The name of the figure that stands for quality, and each model's; ``x`` is to be filled in."""
    compared = [row for row in rows if row.divergence is not None]
    if compared:
        return "mean KL from the reference (nats)", [
            Dot(row.label, 0.0, row.divergence.kl_mean) for row in compared if row.divergence is not None
        ]
    return "perplexity", [
        Dot(row.label, 0.0, row.perplexity.value, row.perplexity.low, row.perplexity.high) for row in rows
    ]


def _panels(rows: Sequence[Row]) -> list[tuple[str, str, list[Dot]]]:
    """(what x is, what y is, points) of each chart."""
    name, dots = _quality(rows)
    shown = [row for row in rows if row.divergence is not None] or list(rows)
    found = []
    for label, xs in (
        (_SIZE, [None if row.file_bytes is None else row.file_bytes / 1e6 for row in shown]),
        (_SPEED, [row.decode_tps for row in shown]),
    ):
        points = [Dot(d.name, x, d.y, d.low, d.high) for d, x in zip(dots, xs, strict=True) if x is not None]
        found.append((label, name, points))
    return found


def evaluate_page(rows: Sequence[Row], about: str) -> str:
    """A whole document. ``about``: what the models were examined on."""
    parts = [paragraph(about, "soft")]
    kinds = ("text", *["number"] * (len(headings(rows)) - 1))
    parts.append(section("Models", table(headings(rows), [cells(row, rows) for row in rows], kinds=kinds)))
    for x_label, y_label, dots in _panels(rows):
        if dots:
            parts.append(section(f"{y_label} against {x_label}", chart.scatter(dots, x_label=x_label, y_label=y_label)))
    if rows and rows[0].tasks:
        named = [SETS[name] for name in rows[0].tasks if name in SETS]
        lines = [(one.name, one.about, one.source, one.licence) for one in named]
        parts.append(section("Tasks", table(("set", "what", "source", "licence"), lines)))
    return page("Models compared", *parts)


def picture(rows: Sequence[Row]) -> bytes:
    """The two charts as a PNG. Raises `BackendUnavailable` without matplotlib."""
    figure = pictures.figure(11, 4.5)
    for number, (x_label, y_label, dots) in enumerate(_panels(rows), 1):
        axes = figure.add_subplot(1, 2, number)
        for dot in dots:
            errors = None if dot.low is None or dot.high is None else [[dot.y - dot.low], [dot.high - dot.y]]
            axes.errorbar([dot.x], [dot.y], yerr=errors, fmt="o", color="#0a66b5", capsize=3)
            right = dot.x > (min(d.x for d in dots) + max(d.x for d in dots)) / 2  # its name would leave the picture
            side: dict[str, Any] = {"xytext": (-6, 4), "ha": "right"} if right else {"xytext": (6, 4)}
            axes.annotate(dot.name, (dot.x, dot.y), textcoords="offset points", fontsize=8, **side)
        axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if spread_out([dot.y for dot in dots]) else "linear")
        axes.margins(0.15)
        axes.grid(alpha=0.3)
    return pictures.png(figure)
