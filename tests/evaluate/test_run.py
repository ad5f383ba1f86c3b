"""Several scripted models examined: what is measured of each, against whom, and what a gate lets through."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from scripted_sides import Row as Logits
from scripted_sides import ScriptedSide

from edgeinfer.embedding import Embedding
from edgeinfer.errors import BackendUnavailable, EngineError, UnsupportedModel, UsageError
from edgeinfer.evaluate import Gate, Plan, Row, examine
from edgeinfer.evaluate.clock import Cost, TokenIds, cost_alone
from edgeinfer.evaluate.memory import PeakMemory
from edgeinfer.evaluate.plot import evaluate_page, picture
from edgeinfer.evaluate.report import GATES, as_document, cells, check_gates, failures, headings
from edgeinfer.evaluate.tasks import Question
from edgeinfer.opening import Opened
from edgeinfer.side import Side
from edgeinfer.text.byte_tokenizer import ByteTokenizer
from edgeinfer.verify import Scope, shipped_text

PLAN = Plan(Scope(shipped_text(), n_positions=160, n_window=64), {"facts": [Question("The sky is", (" up", " so"), 0)]})


def louder(by: float) -> Callable[[Sequence[int], Logits], Logits]:
    def change(_tokens: Sequence[int], row: Logits) -> Logits:
        row *= np.float32(by)
        return row

    return change


def examined(*changes: float, has_reference: bool = True) -> list[Row]:
    openers = [(f"x{by:g}", ScriptedSide(louder(by))) for by in changes]
    return examine(openers, PLAN, has_reference=has_reference)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return examined(1.0, 1.0, 1.1, 0.5)


def test_the_reference_goes_first_and_is_no_distance_away(rows: list[Row]) -> None:
    assert [row.is_reference for row in rows] == [True, False, False, False]
    assert rows[0].divergence is None
    same, near, far = (row.divergence for row in rows[1:])
    assert same is not None
    assert near is not None
    assert far is not None
    assert (same.kl_mean, same.kl_p99, same.agreement.value) == (0.0, 0.0, 1.0)
    assert 0 < near.kl_mean < far.kl_mean
    assert near.kl_median <= near.kl_mean < near.kl_p99
    assert near.agreement.n == 160 - 3  # but for the first position of each window
    ratio = rows[1].perplexity_ratio
    assert ratio is not None
    assert (ratio.value, ratio.high) == (1.0, 1.0)


def test_without_a_reference_nothing_is_compared() -> None:
    (row,) = examined(1.0, has_reference=False)
    assert (row.divergence, row.perplexity_ratio, row.is_reference) == (None, None, False)
    assert row.perplexity.low < row.perplexity.value < row.perplexity.high
    assert "mean KL" not in headings([row])
    assert len(cells(row, [row])) == len(headings([row]))


def test_everything_else_is_measured(rows: list[Row]) -> None:
    for row in rows:
        assert row.prefill_tps > 0
        assert row.decode_tps > 0
        assert row.peak_bytes > 1 << 20
        assert row.tasks["facts"].n == 1
        assert len(cells(row, rows)) == len(headings(rows))
    document = json.loads(json.dumps(as_document(rows), allow_nan=False))
    assert document[2]["divergence"]["kl_mean"] == rows[2].divergence.kl_mean  # type: ignore[union-attr]


def test_costs_are_asked_for_when_the_model_is_closed() -> None:
    sides = [ScriptedSide(), ScriptedSide()]
    asked = []

    def clock(number: int, ids: TokenIds) -> Cost:
        asked.append((number, len(ids), all(engine.closed for side in sides for engine in side.engines)))
        return Cost(1.0 + number, 2.0, 3)

    rows = examine([("a", sides[0]), ("b", sides[1])], PLAN, has_reference=False, clock=clock)
    assert asked == [(0, 64, True), (1, 64, True)]
    assert [(row.prefill_tps, row.decode_tps, row.peak_bytes) for row in rows] == [(1.0, 2.0, 3), (2.0, 2.0, 3)]


def test_a_model_that_cannot_be_timed_is_named(tmp_path: Path) -> None:
    ids = np.zeros(4, np.int32)
    with pytest.raises(EngineError, match=r"no\.gguf could not be timed: .*no\.gguf"):
        cost_alone(Side(str(tmp_path / "no.gguf")), 64, None, ids)


def test_an_encoder_is_refused() -> None:
    class Encoding(ScriptedSide):
        @contextlib.contextmanager
        def __call__(self) -> Iterator[Opened]:
            with super().__call__() as model:
                yield dataclasses.replace(model, embedding=Embedding(generates=False))

    with pytest.raises(UnsupportedModel, match="is an encoder"):
        examine([("e", Encoding())], PLAN, has_reference=False)


def test_one_model_is_open_at_a_time() -> None:
    sides = [ScriptedSide(), ScriptedSide(), ScriptedSide()]
    open_then = []

    def counting(_tokens: Sequence[int], row: Logits) -> Logits:
        open_then.append(sum(not engine.closed for side in sides for engine in side.engines))
        return row

    sides[2] = ScriptedSide(counting)
    examine([(str(i), side) for i, side in enumerate(sides)], PLAN, has_reference=True)
    assert set(open_then) == {1}


def test_another_vocabulary_is_refused_by_name() -> None:
    other = ScriptedSide(tokenizer=ByteTokenizer(("<s>", "</s>")))
    with pytest.raises(UnsupportedModel, match="ref and new have different vocabularies"):
        examine([("ref", ScriptedSide()), ("new", other)], PLAN, has_reference=True)
    assert len(examine([("a", ScriptedSide()), ("b", other)], PLAN, has_reference=False)) == 2


def test_gates(rows: list[Row]) -> None:
    kl = rows[2].divergence.kl_mean  # type: ignore[union-attr]
    assert failures(rows[:3], [Gate.parse(f"max-kl={kl * 1.01}")]) == []
    (line,) = failures(rows[:3], [Gate.parse(f"max-kl={kl * 0.99}")])
    assert line == f"x1.1: kl is {kl:.6g}, above {kl * 0.99:.6g}"
    assert len(failures(rows, [Gate.parse("min-agreement=1"), Gate.parse("max-perplexity=0.1")])) == 3
    assert "size is not known, above" in failures(rows[:2], [Gate.parse("max-size=2G")])[0]
    assert failures(rows, [Gate.parse("max-memory=512G"), Gate.parse("min-decode=0.001")]) == []
    for name in GATES:
        assert Gate.parse(f"{name}=1").name == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max-kl", "write a number after the ="),
        ("max-kl=much", "write a number"),
        ("max-size=large", "a size such as 2G"),
        ("kl=1", "no gate 'kl'; there are: max-kl"),
        ("max-kl=nan", "at least 0"),
        ("max-kl=-1", "at least 0"),
    ],
)
def test_gates_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        Gate.parse(text)
    assert says in str(refused.value)


def test_a_gate_on_what_is_not_measured_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="needs a reference"):
        check_gates([Gate("max-kl", 1)], has_reference=False, tasks=["facts"])
    with pytest.raises(UsageError, match="add code to --tasks"):
        check_gates([Gate("min-code", 1)], has_reference=True, tasks=["facts"])
    check_gates([Gate("max-perplexity", 9), Gate("min-facts", 1)], has_reference=False, tasks=["facts"])


def test_plots(rows: list[Row]) -> None:
    for shown in (rows, examined(1.0, 0.8, has_reference=False)):
        document = evaluate_page(shown, "some <text>")
        assert "some &lt;text&gt;" in document
        n_compared = sum(row.divergence is not None for row in shown) or len(shown)
        assert document.count("<circle") == n_compared  # sizes are not known here: speed alone
        assert "Apache-2.0" in document


def test_a_picture(rows: list[Row]) -> None:
    pytest.importorskip("matplotlib")
    assert picture(rows).startswith(b"\x89PNG")
    assert picture([]).startswith(b"\x89PNG")


def test_without_matplotlib_a_picture_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'edgeinfer\[plot\]'"):
        picture([])


def test_the_peak_is_of_what_runs_meanwhile() -> None:
    with PeakMemory() as before:
        pass
    with PeakMemory() as during:
        block = np.ones(64 << 20, np.uint8)
    assert during.peak_bytes - before.peak_bytes > 48 << 20
    del block
    with PeakMemory() as after:
        pass
    assert during.peak_bytes - after.peak_bytes > 48 << 20
