"""Questions with answers to choose from: which counts, and that the sets that ship are sound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scripted_sides import Row, ScriptedSide

from edgeinfer import metrics
from edgeinfer.engines.base import Slice
from edgeinfer.errors import FormatError, UsageError
from edgeinfer.evaluate.tasks import SETS, Question, _likelihoods, parse, questions, score

ASKED = [
    Question("The sky is", (" blue", " green", " loud"), 0),
    Question("2 + 2 =", (" 4", " 5"), 0),
    Question("A cat is a", (" plant", " mammal", " mineral"), 1),
]


def knows(text: str) -> ScriptedSide:
    """Always wants the next byte of this text where it has got into it."""
    data = text.encode()

    def change(tokens: Sequence[int], row: Row) -> Row:
        said = bytes(token for token in tokens if token < 256)
        if said and data.startswith(said) and len(said) < len(data):
            row[data[len(said)]] += 30
        return row

    return ScriptedSide(change)


def test_the_likeliest_answer_counts() -> None:
    for one in ASKED:
        with knows(one.text + one.options[one.answer])() as model:
            assert score(model.engine, model.tokenizer, [one]).value == 1.0
            assert model.engine.length(0) == 0
        with knows(one.text + one.options[one.answer - 1])() as model:
            assert score(model.engine, model.tokenizer, [one]).value == 0.0


def test_a_share_of_right_answers_has_its_interval() -> None:
    heard = []
    with knows("The sky is blue")() as model:
        found = score(model.engine, model.tokenizer, ASKED, lambda *done: heard.append(done))
    assert found == metrics.proportion(round(found.value * 3), 3)
    assert heard == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "options", [("abc", "abd"), ("a", "ab", "abc"), ("abc", "xyz"), ("x", "y"), ("longer than a batch", "longer, too")]
)
@pytest.mark.parametrize("rewinds", [True, False])
def test_likelihoods_are_those_of_whole_texts(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], rewinds: bool
) -> None:
    """Differences between the texts are what they are when each is read from its beginning."""
    with ScriptedSide(n_batch=8)() as model:
        engine = model.engine
        if not rewinds:  # as with recurrent state: all or nothing

            def drop(seq: int, n_tokens: int) -> int:  # noqa: ARG001
                engine.release(seq)
                return 0

            monkeypatch.setattr(engine, "truncate", drop)
        texts = [model.tokenizer.encode("What follows: " + option) for option in options]
        found = np.array(_likelihoods(engine, texts))
        whole = []
        for ids in texts:
            engine.release(0)
            rows = [engine.forward([Slice(0, ids[i : i + 1], i)])[0].copy() for i in range(len(ids) - 1)]
            whole.append(metrics.token_logprobs(np.stack(rows), ids[1:]).sum())
        assert found - found[0] == pytest.approx(np.array(whole) - whole[0])


def test_a_question_that_does_not_fit() -> None:
    with ScriptedSide(n_ctx=20)() as model, pytest.raises(UsageError, match="does not fit a context of 20"):
        score(model.engine, model.tokenizer, [Question("x" * 30, ("a", "b"), 0)])


@pytest.mark.parametrize("name", list(SETS))
def test_the_sets_that_ship(name: str) -> None:
    asked = questions(name)
    assert len(asked) >= 30
    assert len({one.text + "".join(one.options) for one in asked}) == len(asked)
    places = np.bincount([one.answer for one in asked], minlength=4)
    assert places.min() >= len(asked) // 4  # to answer always the same is no way to pass
    assert SETS[name].source
    assert SETS[name].licence
    with pytest.raises(UsageError, match="there are: facts"):
        questions("trivia")


def test_sums_are_right() -> None:
    n_checked = 0
    for one in questions("arithmetic"):
        words = one.text.removeprefix("Q: What is ").partition("?")[0].split()
        if len(words) == 3:
            a, b = int(words[0]), int(words[2])
            right = {"+": a + b, "-": a - b, "×": a * b, "÷": a // b}[words[1]]
            assert one.options[one.answer] == f" {right}\n", one.text
            n_checked += 1
    assert n_checked == 42


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"text": "a"}',
        '{"text": "a", "options": ["b"], "answer": 0}',
        '{"text": "a", "options": ["b", "b"], "answer": 0}',
        '{"text": "a", "options": ["b", "bc"], "answer": 0}',
        '{"text": "a", "options": ["b", "c"], "answer": 2}',
        '{"text": "a", "options": ["b", 3], "answer": 0}',
        '{"text": 1, "options": ["b", "c"], "answer": 0}',
    ],
)
def test_lines_that_are_no_questions(line: str) -> None:
    good = '{"text": "a", "options": ["b", "c"], "answer": 1}'
    assert parse(good, "set") == (Question("a", ("b", "c"), 1),)
    with pytest.raises(FormatError, match="set, line 2: not a question"):
        parse(f"{good}\n{line}", "set")
