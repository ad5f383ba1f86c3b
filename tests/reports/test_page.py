"""Pages: whole, escaped, and asking for nothing from outside; charts that hold what they are given."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import numpy as np
import pytest
from scripted_sides import Row, ScriptedSide

from edgeinfer.reports import chart
from edgeinfer.reports.chart import Dot
from edgeinfer.reports.page import escaped, page, paragraph, table
from edgeinfer.verify import Scope, Thresholds, compare, shipped_text
from edgeinfer.verify.page import verify_page

HOSTILE = "<script>alert('x')</script> & \"quoted\" \x1b[2J \ud800"


def outside(document: str) -> list[str]:
    """What a browser would fetch."""
    return re.findall(r"(?:src|href|url|@import)\s*[=(]|https?:", document)


def test_text_is_text() -> None:
    document = page(HOSTILE, paragraph(HOSTILE), table((HOSTILE,), [(HOSTILE,)], kinds=("text",)))
    assert "<script>" not in document
    assert "\x1b" not in document
    document.encode()
    assert escaped('a"b') == "a&quot;b"
    assert outside(document) == []


def circles(markup: str) -> list[ET.Element]:
    return list(ET.fromstring(markup).iter("circle"))


def test_a_dot_for_each_position_the_larger_the_higher() -> None:
    values = np.array([0.5, 0.0, 1e-5, 1e-3, 0.2, np.inf])
    first = np.array([True, False, False, False, False, False])
    dots = circles(chart.along(values, first, label="KL", mean=0.1, limit=0.01))
    assert [dot.get("class") for dot in dots] == ["dot first", "dot", "dot", "dot", "dot over", "dot over"]
    heights = [float(dot.get("cy") or 0) for dot in dots]
    assert heights[1] >= heights[2] > heights[3] > heights[4] > heights[0] >= heights[5]


def test_the_largest_of_many_is_shown() -> None:
    values = np.full(50_000, 1e-6)
    values[33_333] = 7.0
    dots = circles(chart.along(values, np.zeros(50_000, bool), label="KL"))
    assert len(dots) <= 2000
    assert "position 33333: 7" in "".join("".join(dot.itertext()) for dot in dots)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-300], [1e300, 1e-300], [np.inf]])
def test_values_that_are_hard_to_draw(values: list[float]) -> None:
    for dot in circles(chart.along(np.array(values), np.zeros(len(values), bool), label="KL", limit=0.01)):
        assert 0 <= float(dot.get("cy") or -1) <= 320


def test_points_with_names() -> None:
    dots = [Dot("a<b", 1.0, 5.0, 4.0, 6.0), Dot("c", 2.0, 3.0), Dot("d", 3.0, float("inf"))]
    markup = chart.scatter(dots, x_label="size", y_label="perplexity")
    assert len(circles(markup)) == 2
    assert "a&lt;b" in markup
    assert chart.scatter([Dot("alone", 0.0, 0.0)], x_label="x", y_label="y").count("<circle") == 1


def test_figures_of_very_different_sizes_are_all_seen() -> None:
    dots = [Dot("a", 1.0, 1e-4), Dot("b", 2.0, 1e-3), Dot("c", 3.0, 1e-1)]
    markup = chart.scatter(dots, x_label="size", y_label="KL")
    heights = [float(dot.get("cy") or 0) for dot in circles(markup)]
    assert heights[0] - heights[1] == pytest.approx((heights[1] - heights[2]) / 2, abs=0.2)
    assert "1e-3" in markup


def test_the_page_of_a_comparison() -> None:
    def spoiled(tokens: Sequence[int], row: Row) -> Row:
        return np.roll(row, 1) if len(tokens) > 10 else row

    scope = Scope(shipped_text(), ("<b>bold</b>", "One, two,"), n_positions=60, n_window=40, n_tokens=6)
    report = compare(ScriptedSide(), ScriptedSide(spoiled), ("a<i>", "b"), scope, Thresholds())
    document = verify_page(report)
    assert outside(document) == []
    assert "a&lt;i&gt;" in document
    assert "<i>" not in document
    assert "prefers-color-scheme: dark" in document
    assert document.count("<circle") == 60
    assert "do not agree" in document
    assert f"{report.forced.kl_mean:.3g}" in document
    same = compare(ScriptedSide(), ScriptedSide(), ("a", "b"), scope, Thresholds())
    assert "The two agree." in verify_page(same)
