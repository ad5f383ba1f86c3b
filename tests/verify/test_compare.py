"""Two scripted models held against each other: what is found, what is a fault, and where it is said to be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scripted_sides import Row, ScriptedSide

from edgeinfer.errors import ContextOverflow, UnsupportedModel, UsageError
from edgeinfer.text.byte_tokenizer import ByteTokenizer
from edgeinfer.verify import Report, Scope, Thresholds, compare, shipped_text

SCOPE = Scope(shipped_text(), ("One, two,", "def f(x):", "Dear"), n_positions=120, n_window=80, n_tokens=12)


def held(a: ScriptedSide, b: ScriptedSide, scope: Scope = SCOPE, limits: Thresholds | None = None) -> Report:
    return compare(a, b, ("old", "new"), scope, limits or Thresholds())


def test_a_model_and_itself() -> None:
    report = held(ScriptedSide(), ScriptedSide())
    assert report.passed
    assert (report.forced.kl_mean, report.forced.kl_max, report.forced.difference) == (0.0, 0.0, 0.0)
    assert (report.forced.agreement, report.forced.overlap) == (1.0, 1.0)
    assert (report.n_prompts, report.n_identical, report.partings, report.worst) == (3, 3, (), ())
    assert (report.windows, report.forced.n_positions) == ((80, 40), 118)
    ratio = report.forced.perplexity_ratio
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


def test_one_is_closed_before_the_other_opens() -> None:
    a = ScriptedSide()
    seen: list[bool] = []

    def closed_by_now(_tokens: Sequence[int], row: Row) -> Row:
        if not seen:
            seen.append(a.engines[0].closed)
        return row

    b = ScriptedSide(closed_by_now)
    held(a, b)
    assert seen == [True]
    assert len(a.engines) == len(b.engines) == 1


def test_who_goes_first_does_not_matter() -> None:
    def blunt(_tokens: Sequence[int], row: Row) -> Row:
        row *= np.float32(0.7)
        return row

    a, b = ScriptedSide(), ScriptedSide(blunt)
    reports = [
        compare(a, b, ("old", "new"), SCOPE, Thresholds(), b_first=b_first).as_dict() for b_first in (False, True)
    ]
    assert reports[0] == reports[1]
    assert reports[0]["forced"]["kl_mean"] > 0.01
    turned = held(ScriptedSide(blunt), ScriptedSide())
    assert turned.forced.kl_mean != pytest.approx(reports[0]["forced"]["kl_mean"], rel=0.01)


def test_from_which_position_on_they_differ() -> None:
    def spoiled(tokens: Sequence[int], row: Row) -> Row:
        return np.roll(row, 1) if len(tokens) > 33 else row

    report = held(ScriptedSide(), ScriptedSide(spoiled))
    assert not report.passed
    assert {fault.what for fault in report.faults} == {"kl", "agreement"}  # the greedy texts are shorter than that
    after = shipped_text()[22:34]
    for fault in report.faults:
        assert fault.where == f"position 33 (after {after!r})"
    assert report.worst[0].kl == report.forced.kl_max
    assert all(one.at.index >= 33 for one in report.worst)


def test_a_fault_in_a_later_window_is_said_to_be_there() -> None:
    text = shipped_text().encode()

    def spoiled(tokens: Sequence[int], row: Row) -> Row:
        return np.roll(row, 1) if tokens[0] == text[80] and len(tokens) > 10 else row

    report = held(ScriptedSide(), ScriptedSide(spoiled))
    assert report.faults[0].where.startswith("position 10 of window 1 (after ")


def test_position_0_is_reported_apart() -> None:
    def spoiled(tokens: Sequence[int], row: Row) -> Row:
        return np.roll(row, 1) if len(tokens) == 1 else row

    report = held(ScriptedSide(), ScriptedSide(spoiled))
    assert report.passed
    assert report.forced.kl_max == 0.0
    assert report.forced.kl_first > 1.0


def nudged(by: float) -> ScriptedSide:
    """Its second choice is raised above the first by this, wherever it was within twice as much below."""

    def change(_tokens: Sequence[int], row: Row) -> Row:
        second, first = np.argsort(row)[-2:]
        if row[first] - row[second] < by:
            row = row.copy()
            row[second] = row[first] + by / 4
        return row

    return ScriptedSide(change)


def test_texts_that_part_at_a_tie_are_excused_and_others_are_not() -> None:
    limits = Thresholds(max_kl=None, min_agreement=None, max_gap=0.5)
    report = held(ScriptedSide(), nudged(0.4), limits=limits)
    assert report.passed
    assert report.partings
    assert report.n_identical == 3 - len(report.partings)
    for one in report.partings:
        assert 0 < one.gap_a < 0.4
        assert one.gap_b == pytest.approx(0.1, abs=1e-4)
        assert one.tie
    smallest = min(one.gap_a for one in report.partings)
    report = held(ScriptedSide(), nudged(0.4), limits=Thresholds(None, None, smallest / 2))
    assert [fault.what for fault in report.faults] == ["greedy"]
    first = report.partings[0]
    assert report.faults[0].where == f"token {first.token} of prompt {first.prompt}"
    assert f"gap {first.gap_a:.3g}" in report.faults[0].message


def test_a_text_that_one_of_them_ends_is_another_text() -> None:
    def ends(tokens: Sequence[int], row: Row) -> Row:
        if len(tokens) > 12:
            row[257] = 40.0
        return row

    report = held(ScriptedSide(), ScriptedSide(ends), limits=Thresholds(None, None))
    assert not report.passed
    assert {one.choice_b for one in report.partings} == {"</s>"}
    assert held(ScriptedSide(ends), ScriptedSide(ends)).n_identical == 3


def test_two_vocabularies_are_refused_by_name() -> None:
    longer = ScriptedSide(tokenizer=ByteTokenizer(("<s>", "</s>", "<|turn|>", "<|more|>")))
    with pytest.raises(UnsupportedModel, match=r"^old and new have different vocabularies \(259 tokens against 260\)"):
        held(ScriptedSide(), longer)
    other = ScriptedSide(tokenizer=ByteTokenizer(("<s>", "</s>", "<|side|>")))
    with pytest.raises(UnsupportedModel, match=r"token 258 is b'<\|turn\|>' in one and b'<\|side\|>' in the other"):
        held(ScriptedSide(), other)


def test_without_prompts_the_text_alone_is_read() -> None:
    report = held(ScriptedSide(), ScriptedSide(), Scope(shipped_text(), n_positions=20))
    assert (report.n_prompts, report.passed) == (0, True)


def test_a_prompt_that_does_not_fit() -> None:
    with pytest.raises(ContextOverflow):
        held(ScriptedSide(n_ctx=128), ScriptedSide(n_ctx=128), Scope(shipped_text(), ("x" * 200,), 50, 50))
    assert Scope(shipped_text(), ("x" * 2000,)).n_ctx >= 2000 + 48


def test_a_context_for_everything() -> None:
    assert Scope(shipped_text(), n_positions=100, n_window=512).n_ctx == 256
    assert Scope(shipped_text(), ("ab",), n_positions=600, n_window=512, n_tokens=48).n_ctx == 512


@pytest.mark.parametrize("wrong", [{"n_positions": 1}, {"n_window": 0}, {"n_tokens": 0}, {"k": 0}])
def test_scopes_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        Scope("text", **wrong)


@pytest.mark.parametrize("wrong", [{"max_kl": -1.0}, {"min_agreement": 1.5}, {"max_gap": float("nan")}])
def test_limits_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be at least 0"):
        Thresholds(**wrong)


def test_the_report_is_json() -> None:
    def sure(_tokens: Sequence[int], row: Row) -> Row:
        row *= np.float32(1e4)
        return row  # divergences beyond what a number says, perplexities too

    document = json.loads(json.dumps(held(ScriptedSide(), ScriptedSide(sure)).as_dict(), allow_nan=False))
    assert document["passed"] is False
    assert document["forced"]["perplexity_b"]["value"] is None
    assert document["faults"][0]["what"] == "kl"
    assert document["greedy"]["n_prompts"] == 3
