"""``edgeinfer bench --prompts``: what is read, what is compared, and what is said about it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import scripted_drafts

from edgeinfer import bench_prompts
from edgeinfer.cli import main
from edgeinfer.core import Answer, GenerationStats
from edgeinfer.errors import UsageError
from edgeinfer.llm import LLM
from edgeinfer.speculate import Speculator, costs
from edgeinfer.speculate.ngram import NgramDrafter

ROWS: list[dict[str, Any]] = [
    {"id": "a", "kind": "copy", "prompt": "one two three four, one two three four, one two three four", "more": 1},
    {"id": "b", "kind": "copy", "prompt": "red green blue, red green blue, red green blue, red green blue"},
    {"id": "c", "kind": "chat", "prompt": "Grüße, 世界!\u2028over"},
]
FIELDS = {"id", "kind", "plain_tps", "draft_tps", "speedup", "identical", "drafted", "accepted"}


def written(folder: Path, rows: Sequence[Any] = ROWS) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture
def drafting_llm(scripted: Any) -> Any:
    """Scripted models with drafts from the text, which always pay."""
    scripted.info = dataclasses.replace(scripted.info, chat_template="there is one")
    scripted.speculator = lambda: Speculator(scripted_drafts.FLAT, NgramDrafter())
    return scripted


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["bench", "-m", "m", "--json", *arguments]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_every_prompt_with_and_without(drafting_llm: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = run(capsys, "--prompts", str(written(tmp_path)), "-n", "40", "-md", "ngram", "-t", "1", "--no-kernels")
    assert [row["id"] for row in found["prompts"]] == ["a", "b", "c"]
    assert all(set(row) == FIELDS for row in found["prompts"])
    assert all(row["identical"] for row in found["prompts"])
    assert all(0 < row["accepted"] <= row["drafted"] for row in found["prompts"][:2])
    for row in found["prompts"]:
        assert row["speedup"] == row["draft_tps"] / row["plain_tps"]
    copy = math.sqrt(found["prompts"][0]["speedup"] * found["prompts"][1]["speedup"])
    assert found["by_kind"] == pytest.approx({"copy": copy, "chat": found["prompts"][2]["speedup"]})
    assert found["geomean"] == pytest.approx(math.sqrt(copy * found["by_kind"]["chat"])), "of kinds, not of prompts"
    assert "parallel" not in found
    ((model, arguments),) = drafting_llm.opened
    assert model == "m"
    threads = {"n_threads": 1, "n_threads_batch": 1}
    assert arguments == {"draft": "ngram", "kernels": False, "device": "auto", "require": "", **threads}


def test_who_is_first_alternates_and_nothing_is_reused(
    drafting_llm: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    stream, forget = LLM.stream, LLM.forget

    def watched(llm: LLM, prompt: Any, **options: Any) -> Any:
        heard.append((prompt[0]["content"][:3], options["draft"]))
        assert options["temperature"] == 0
        return stream(llm, prompt, **options)

    def forgetting(llm: LLM) -> None:
        heard.append("forget")
        forget(llm)

    monkeypatch.setattr(LLM, "stream", watched)
    monkeypatch.setattr(LLM, "forget", forgetting)
    run(capsys, "--prompts", str(written(tmp_path)), "-n", "4")
    warm_up, counted = heard[:4], heard[4:]
    assert warm_up == ["forget", ("one", False), "forget", ("one", True)]
    assert counted[0::2] == ["forget"] * 6
    pairs = [("one", False), ("one", True), ("red", True), ("red", False), ("Grü", False), ("Grü", True)]
    assert counted[1::2] == pairs
    assert drafting_llm.opened[0][1]["draft"] == "off", "EDGEINFER_DRAFT, as tests/conftest.py sets it"


def test_many_at_once(drafting_llm: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    drafting_llm.n_seq_max = 2
    path = written(tmp_path)
    found = run(capsys, "--prompts", str(path), "-n", "30", "-md", "ngram", "--parallel", "2")
    together = found["parallel"]
    assert set(together) == {"n", "plain_tps", "draft_tps", "speedup", "identical"}
    assert (together["n"], together["identical"]) == (2, True)
    assert together["speedup"] == together["draft_tps"] / together["plain_tps"] > 0
    more = drafting_llm.opened[1][1]
    assert more["n_parallel"] == 2
    assert more["n_ctx"] % 256 == 0
    assert more["n_ctx"] <= 512, "as much as the longest prompt takes, not the default for each of them"


def test_answers_that_differ_are_named(drafting_llm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever makes them differ: here a script whose second answer to a question is another."""
    drafting_llm.reply = lambda question: f"{question} {len(drafting_llm.seen)}"
    path = str(written(tmp_path, ROWS[:1]))
    found = run(capsys, "--prompts", path, "-md", "ngram", "-n", "80")
    (row,) = found["prompts"]
    assert row["identical"] is False
    assert row["first_difference"] == len(ROWS[0]["prompt"]) + 1
    assert main(["bench", "-m", "m", "--prompts", path, "-md", "ngram", "-n", "80"]) == 0
    out = capsys.readouterr().out
    assert f"no, from token {row['first_difference'] + 1}" in " ".join(out.split())


def test_the_table(drafting_llm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drafting_llm.n_seq_max = 2
    path = str(written(tmp_path, [{**ROWS[0], "id": "[red]\x1b[31m"}, *ROWS[1:]]))
    assert main(["bench", "-m", "m", "--prompts", path, "-md", "ngram", "-n", "8", "--parallel", "2"]) == 0
    out, err = capsys.readouterr()
    assert "[red]\\x1b[31m" in out
    assert "all kinds" in out
    assert "2 at once: " in out
    assert "same answers: yes" in out
    assert err == ""


def test_a_model_without_a_template_gets_the_text(
    scripted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    stream = LLM.stream

    def watched(llm: LLM, prompt: Any, **options: Any) -> Any:
        asked.append(prompt)
        return stream(llm, prompt, **options)

    monkeypatch.setattr(LLM, "stream", watched)
    scripted.raw = True
    run(capsys, "--prompts", str(written(tmp_path, ROWS[:1])), "-n", "4")
    assert set(asked) == {ROWS[0]["prompt"]}


# ---- what cannot be


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[]", "line 2: not a JSON object"),
        ('{"id": "x", "kind": "k"}', "line 2: 'prompt' must be a text"),
        ('{"id": 1, "kind": "k", "prompt": "p"}', "line 2: 'id' must be a text"),
        ('{"id": "x", "kind": " ", "prompt": "p"}', "line 2: 'kind' must be a text that is not empty"),
        ('{"id": "x", "kind": "k", "prompt": "\\ud800"}', "line 2: 'prompt' is not Unicode text"),
        ('{"id": "a", "kind": "k", "prompt": "p"}', "line 2: the id 'a' was there before"),
    ],
)
def test_rows_that_cannot_be(
    scripted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line)
    assert main(["bench", "--prompts", str(path)]) == 2
    captured = capsys.readouterr()
    assert f"{path}, {message}" in captured.err
    assert captured.out == ""
    assert scripted.opened == [], "said before any model is opened"


def test_a_file_without_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("\n \n")
    assert main(["bench", "--prompts", str(path)]) == 2
    assert f"{path} has no prompts" in capsys.readouterr().err
    with pytest.raises(UsageError, match="has no prompts"):
        bench_prompts.parse("", "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--parallel", "2"], "give --prompts"), (["--kernels", "--prompts", __file__], "give one of them")],
)
def test_flags_that_do_not_go_together(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_comparisons() -> None:
    def answer(ids: Sequence[int], tps: float) -> Answer:
        return Answer("", tuple(ids), "stop", GenerationStats(n_generated=len(ids), decode_tps=tps))

    prompt = bench_prompts.BenchPrompt("a", "k", "p")
    shorter = bench_prompts._compared(prompt, answer([1, 2, 3], 10.0), answer([1, 2], 20.0))
    assert (shorter.identical, shorter.first_difference, shorter.speedup) == (False, 2, 2.0)
    one = bench_prompts._compared(prompt, answer([1], 0.0), answer([1], 0.0))
    assert (one.identical, one.speedup) == (True, 1.0), "one token: nothing to draft, nothing to divide by"
    assert "first_difference" not in one.as_dict()


# ---- with a model


@pytest.mark.model
def test_smollm2_says_the_same_with_drafts(
    smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts are made although they may not pay here: the costs are remembered as if they always did."""
    monkeypatch.setattr(costs, "recall", lambda *_: scripted_drafts.FLAT)
    rows = [{"id": "r", "kind": "repeat", "prompt": "Repeat this line ten times: The quick brown fox jumps."}]
    path = str(written(tmp_path, rows))
    found = run(capsys, "-m", str(smollm2), "--prompts", path, "-md", "ngram", "-n", "48", "-t", "1")
    (row,) = found["prompts"]
    assert set(row) == FIELDS
    assert row["identical"] is True
    assert 0 < row["accepted"] <= row["drafted"]
    assert row["plain_tps"] > 0
    assert row["draft_tps"] > 0
    assert found["by_kind"] == {"repeat": pytest.approx(row["speedup"])}
    assert found["geomean"] == pytest.approx(row["speedup"])
