"""``edgeinfer tune`` on small models with random weights: what is measured, remembered, shown and forgotten."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import runnable

from edgeinfer import catalog, drafting, gguf, tune
from edgeinfer.cli import main
from edgeinfer.core import ModelInfo
from edgeinfer.engines import EngineConfig
from edgeinfer.opening import open_model

TARGET, DRAFT = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelInfo, ModelInfo]:
    """A target and the catalogue's partner for it, both here."""
    monkeypatch.setenv("EDGEINFER_MODELS", str(tmp_path))
    cards = dict(catalog.cards())
    infos = []
    for name, n_ff in ((TARGET, 512), (DRAFT, 256)):
        path = runnable(n_ff=n_ff).write(tmp_path / cards[name].file)
        cards[name] = dataclasses.replace(cards[name], bytes=path.stat().st_size)
        infos.append(gguf.model_info(gguf.read(path), name=name))
    monkeypatch.setattr(catalog, "cards", lambda: cards)
    return infos[0], infos[1]


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["tune", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.mark.usefixtures("pair")
def test_threads_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "-m", TARGET, "--max-threads", "1")
    assert (found["n_threads"], found["n_threads_batch"]) == (1, 1)
    near, far = found["costs"]["depths"]
    assert near < far
    for growth in found["costs"]["v"]:
        assert growth["1"] == 1.0
        assert list(growth.values()) == sorted(growth.values()), "a longer pass is not taken for a cheaper one"
        assert list(growth)[-1] == "16"
    assert found["draft"]["name"] == DRAFT
    assert len(found["draft"]["token"]) == 2
    assert all(ratio > 0 for ratio in found["draft"]["token"])


def test_a_chat_finds_remembered_what_was_tuned(
    pair: tuple[ModelInfo, ModelInfo], capsys: pytest.CaptureFixture[str]
) -> None:
    as_json(capsys, "-m", TARGET, "--max-threads", "1")
    before = drafting.remembered(pair[0])
    assert len(before) == 1
    said: list[str] = []
    opened = open_model(TARGET, EngineConfig(n_ctx=0, isolate=True), draft="ngram", said=said.append)
    opened.engine.close()
    assert opened.speculator is not None
    assert said == [], "nothing was measured again"
    assert drafting.remembered(pair[0]) == before


@pytest.mark.usefixtures("pair")
def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "-m", TARGET, "--max-threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert "what a pass costs, in passes of one token" in out
    assert "v(16)" in out
    assert f"1 of {DRAFT}" in out
    assert "from now on: 1 threads for prefill, 1 for decode" in err


def test_what_is_measured_is_measured_anew(
    pair: tuple[ModelInfo, ModelInfo], capsys: pytest.CaptureFixture[str]
) -> None:
    first = as_json(capsys, "-m", TARGET, "--max-threads", "1")
    (curve,) = drafting.remembered(pair[0]).values()
    second = as_json(capsys, "-m", TARGET, "--max-threads", "1")
    (again,) = drafting.remembered(pair[0]).values()
    assert curve != again
    assert first["costs"] != second["costs"]


def test_forgetting(pair: tuple[ModelInfo, ModelInfo], capsys: pytest.CaptureFixture[str]) -> None:
    as_json(capsys, "-m", TARGET, "--max-threads", "1")
    assert all(drafting.remembered(info) for info in pair)
    assert as_json(capsys, "-m", TARGET, "--forget") == {"model": TARGET, "forgotten": True}
    assert not any(drafting.remembered(info) for info in pair)
    assert tune.recall(pair[0]) is None
    assert as_json(capsys, "-m", TARGET, "--forget") == {"model": TARGET, "forgotten": False}


def test_without_a_partner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runnable().write(tmp_path / "alone.gguf")
    found = as_json(capsys, "-m", str(path), "--max-threads", "1", "--no-kernels")
    assert found["draft"] is None
    assert found["costs"]["v"][0]["16"] > 1
    (words,) = drafting.remembered(gguf.model_info(gguf.read(path), name="x"))
    assert words == "1/1 threads llama.cpp kernels f16 KV"
