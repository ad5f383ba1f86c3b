"""A comparison as a page to read: the verdict, the figures, KL by position, and where greedy texts part."""

from __future__ import annotations

import numpy as np

from edgeinfer.reports import chart
from edgeinfer.reports.page import page, paragraph, section, table
from edgeinfer.verify.report import Report

__all__ = ["figures", "verify_page"]


def figures(report: Report) -> list[tuple[str, str, str]]:
    """(figure, value, what it means), for a terminal as for the page."""
    found, limits = report.forced, report.thresholds

    def limit(value: float | None, text: str) -> str:
        return "" if value is None else f"; {text}"

    ratio = found.perplexity_ratio
    lines = [
        ("mean KL", f"{found.kl_mean:.3g}", "nats" + limit(limits.max_kl, f"at most {limits.max_kl}")),
        ("median KL", f"{found.kl_median:.3g}", ""),
        ("99 % KL", f"{found.kl_p99:.3g}", f"largest: {found.kl_max:.3g}"),
        ("KL at position 0", f"{found.kl_first:.3g}", "not in the other figures"),
        (
            "agreement",
            f"{found.agreement:.2%}",
            "same likeliest token" + ("" if limits.min_agreement is None else f"; at least {limits.min_agreement:.1%}"),
        ),
        (f"top-{found.k} overlap", f"{found.overlap:.2%}", "of the likeliest tokens"),
        (
            "largest difference",
            f"{found.difference:.3g}",
            "of a logit" + ("" if report.exact else ", kept in half precision"),
        ),
        (
            "perplexity",
            f"{found.perplexity_a.value:.4g} / {found.perplexity_b.value:.4g}",
            "of the text, reference first",
        ),
        ("ratio", f"{ratio.value:.4f}", f"95 % interval {ratio.low:.4f} to {ratio.high:.4f}"),
    ]
    if report.n_prompts:
        ties = sum(one.tie for one in report.partings)
        bad = len(report.partings) - ties
        lines.append(
            (
                "greedy texts",
                f"{report.n_identical} of {report.n_prompts}",
                f"the same for {report.n_tokens} tokens; {ties} part at a tie, {bad} elsewhere",
            )
        )
    return lines


def verify_page(report: Report) -> str:
    """The whole document."""
    a, b = report.a, report.b
    verdict = ("The two agree.", "good") if report.passed else ("The two do not agree.", "bad")
    first = np.concatenate([np.arange(n) == 0 for n in report.windows])
    graph = chart.along(report.kl, first, label="KL (nats)", mean=report.forced.kl_mean, limit=report.thresholds.max_kl)
    parts = [
        paragraph(f"{b.label} held against {a.label}, at {report.forced.n_positions} positions of a text.", "soft"),
        paragraph(*verdict),
        *(paragraph(fault.message, "bad") for fault in report.faults),
        section("Models", _models(report)),
        section("Figures", table(("figure", "value", ""), figures(report), kinds=("", "number"))),
        section("KL by position", graph, paragraph("The first position of each window is drawn paler.", "soft")),
        section("Where they differ most", _worst(report)),
    ]
    if report.partings:
        parts.append(section("Where greedy texts part", _partings(report)))
    return page(f"{a.name} and {b.name}", *parts)


def _models(report: Report) -> str:
    rows = []
    for role, side in (("reference", report.a), ("compared", report.b)):
        size = "" if side.file_bytes is None else f"{side.file_bytes / 1e6:.1f} MB"
        bits = "" if side.bits_per_weight is None else f"{side.bits_per_weight:.2f}"
        rows.append((role, side.label, side.architecture, size, bits))
    headings = ("", "model", "architecture", "size", "bits per weight")
    return table(headings, rows, kinds=("", "text", "", "number", "number"))


def _worst(report: Report) -> str:
    rows = [
        (one.at.window, one.at.index, f"{one.kl:.3g}", one.before, one.choice_a, one.choice_b) for one in report.worst
    ]
    headings = ("window", "position", "KL", "after", "reference", "compared")
    return table(headings, rows, kinds=("number", "number", "number", "text", "text", "text"))


def _partings(report: Report) -> str:
    rows = [
        (
            one.prompt,
            one.token,
            f"{one.gap_a:.3g}",
            "tie" if one.tie else "no tie",
            one.text,
            one.choice_a,
            one.choice_b,
        )
        for one in report.partings
    ]
    headings = ("prompt", "after tokens", "gap", "", "common text", "reference", "compared")
    return table(headings, rows, kinds=("number", "number", "number", "", "text", "text", "text"))
