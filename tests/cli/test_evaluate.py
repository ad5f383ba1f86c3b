"""``edgeinfer evaluate`` on files: tables, JSON, pages, pictures and gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shuffled_models import shuffled
from small_models import small_model, written

from edgeinfer.cli import main

FEW = ("--positions", "60", "--tasks", "none")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_THREADS", "1")


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    good = written(small_model(), tmp_path)
    return good, shuffled(good, tmp_path / "bad.gguf", "blk.1.ffn_down.weight")


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    code = main(["evaluate", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    return code, json.loads(line), err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert out == ""
    return code, err


def test_models_against_a_reference(models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = models
    args = (good, bad, "--against", good, *FEW)
    code, found, err = evaluated(capsys, *args, "--gate", "min-decode=0.001")
    assert (code, found["passed"], found["failed"], err) == (0, True, [], "")
    reference, same, other = found["models"]
    assert reference["is_reference"]
    assert reference["divergence"] is None
    assert same["divergence"]["kl_mean"] == 0.0
    assert same["perplexity"] == reference["perplexity"]
    assert other["divergence"]["kl_mean"] > 0.05
    assert other["file_bytes"] == bad.stat().st_size
    assert other["bits_per_weight"] > 8
    code, found, err = evaluated(capsys, *args, "--gate", "max-kl=0.02", "--gate", "min-agreement=0.5")
    assert code == 1
    assert found["failed"][0].startswith(f"{bad}: kl is ")
    assert f"edgeinfer: error: {bad}: kl is" in err
    assert not any(line.startswith(f"{good}:") for line in found["failed"])


def test_tasks_and_tables(models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    good, _ = models
    code, found, _ = evaluated(capsys, good, "--positions", "20", "--tasks", "code", "--gate", "min-code=0")
    assert code == 0
    assert found["models"][0]["tasks"]["code"]["n"] == 32
    assert found["tasks"]["code"] == {"source": "written for edgeinfer", "licence": "Apache-2.0"}
    assert main(["evaluate", str(good), *FEW]) == 0
    heads, row = capsys.readouterr().out.splitlines()
    assert heads.split()[:3] == ["model", "size", "(MB)"]
    assert row.startswith(str(good))
    assert main(["evaluate", str(good), *FEW, "--markdown"]) == 0
    heads, rule, row = capsys.readouterr().out.splitlines()
    assert heads.count("|") == rule.count("|") == row.count("|")
    assert rule.startswith("| --- | ---: |")


def test_a_page_and_a_picture(models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    page, picture = tmp_path / "e.html", tmp_path / "e.png"
    code, _, err = evaluated(capsys, *models, "--against", models[0], *FEW, "--html", page, "--png", picture)
    assert code == 0
    assert err.count("wrote ") == 2
    assert page.read_text(encoding="utf-8").count("<circle") == 4
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be(models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, _ = models
    for arguments, says in (
        ((), "missing argument"),
        ((good, "--tasks", "trivia"), "no set of tasks 'trivia'"),
        ((good, "--gate", "max-kl=1"), "give --against MODEL"),
        ((good, "--gate", "max-fun=1"), "no gate 'max-fun'"),
        ((good, "--png", tmp_path / "e.jpg"), "does not end in .png"),
        ((f"{good}@speed=1",), "no key 'speed'"),
    ):
        code, err = refused(capsys, *arguments)
        assert code == 2
        assert says in err
    assert refused(capsys, tmp_path / "none.gguf")[0] == 4
    assert refused(capsys, good, "--memory", "1M")[0] == 3


@pytest.mark.model
def test_smollm2_knows_something(
    smollm2: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEINFER_THREADS")
    code, found, _ = evaluated(capsys, smollm2, "--positions", "256", "--tasks", "code", "--gate", "min-code=0.6")
    assert code == 0
    assert 5 < found["models"][0]["perplexity"]["value"] < 100
