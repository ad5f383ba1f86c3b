"""``edgeinfer verify`` on files: what agrees, what does not and where, and what cannot be compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gguf_files import ARRAY, STRING
from shuffled_models import shuffled
from small_models import small_model, written

from edgeinfer import kernels
from edgeinfer.cli import main

FEW = ("--positions", "40", "--n-prompts", "3", "-n", "6")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return written(small_model(), tmp_path)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_THREADS", "1")  # several wait for each other where other tests keep the cores busy


def verified(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    code = main(["verify", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    return code, json.loads(line), err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["verify", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("edgeinfer: error: ") == 1
    return code, err


def test_a_file_and_itself(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found, err = verified(capsys, tiny, tiny, *FEW)
    assert (code, err) == (0, "")
    assert found["passed"]
    assert (found["forced"]["kl_max"], found["forced"]["kl_first"], found["forced"]["difference"]) == (0.0, 0.0, 0.0)
    assert (found["forced"]["agreement"], found["greedy"]["n_identical"]) == (1.0, 3)
    assert found["forced"]["n_positions"] == 39


def test_one_matrix_in_disorder(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = shuffled(tiny, tmp_path / "bad.gguf", "blk.1.ffn_down.weight")
    code, found, err = verified(capsys, tiny, bad, *FEW)
    assert code == 1
    assert not found["passed"]
    assert found["forced"]["kl_mean"] > 0.05
    assert found["faults"][0]["where"].startswith("position 1 (after ")
    assert f"{bad} does not agree with {tiny}: the mean KL is" in err
    assert "first at position 1 (after " in err
    assert "edgeinfer: error: " in err


@pytest.mark.skipif(not kernels.expected().active, reason=f"without our kernels: {kernels.expected().why}")
def test_kernels_and_threads_are_sides_too(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found, _ = verified(capsys, tiny, f"{tiny}@kernels=off", *FEW, "--max-gap", "off")
    assert code == 0
    assert 0 < found["forced"]["kl_mean"] < 0.01
    assert found["b"]["label"] == f"{tiny}@kernels=off"
    code, found, _ = verified(capsys, tiny, f"{tiny}@threads=2,parallel=1", *FEW)
    assert (code, found["forced"]["difference"], found["greedy"]["n_identical"]) == (0, 0.0, 3)


def test_a_cache_of_eight_bits_is_another_model(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = (tiny, f"{tiny}@kv_type=q8_0", *FEW, "--max-gap", "off")
    code, found, _ = verified(capsys, *args)
    assert code == 0
    kl = found["forced"]["kl_mean"]
    assert kl > 0
    code, found, _ = verified(capsys, *args, "--max-kl", kl / 2)
    assert code == 1
    assert [fault["what"] for fault in found["faults"]] == ["kl"]
    assert verified(capsys, *args, "--max-kl", "off")[0] == 0


def test_texts_and_prompts_of_ones_own(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, prompts = tmp_path / "text.txt", tmp_path / "prompts.jsonl"
    text.write_text("A short text.", encoding="utf-8")
    prompts.write_text('{"id": "a", "kind": "k", "prompt": "Hello"}\n', encoding="utf-8")
    code, found, err = verified(capsys, tiny, tiny, "--text", text, "--prompts", prompts, "-n", "4")
    assert (code, found["text"], found["greedy"]["n_prompts"]) == (0, str(text), 1)
    assert "edgeinfer: the text has only" in err
    text.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in refused(capsys, tiny, tiny, "--text", text)[1]
    text.write_text("", encoding="utf-8")
    code, err = refused(capsys, tiny, tiny, "--text", text)
    assert code == 2
    assert "too few" in err
    prompts.write_text("{}\n", encoding="utf-8")
    assert refused(capsys, tiny, tiny, "--prompts", prompts)[0] == 2


def test_a_page(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    code, _, err = verified(capsys, tiny, tiny, *FEW, "--html", page)
    assert code == 0
    assert f"wrote {page}" in err
    assert page.read_text(encoding="utf-8").count("<circle") == 40
    code, err = refused(capsys, tiny, tiny, "--html", tmp_path / "none" / "report.html")
    assert code == 2
    assert "there is no folder" in err
    assert "does not end in .html" in refused(capsys, tiny, tiny, "--html", tmp_path / "report.pdf")[1]


def test_a_table(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny), str(tiny), *FEW]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "mean KL" in out
    assert "3 of 3" in out
    assert out.rstrip().endswith("they agree")


def test_what_cannot_be_compared(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = small_model()
    _, (_, tokens) = other.keys["tokenizer.ggml.tokens"]
    other.keys["tokenizer.ggml.tokens"] = (ARRAY, (STRING, [*tokens[:270], "another", *tokens[271:]]))
    path = written(other, tmp_path, "other.gguf")
    code, err = refused(capsys, tiny, path, *FEW)
    assert code == 1
    assert "tiny.gguf" in err
    assert "other.gguf have different vocabularies (token 270 is b't270' in one and b'another' in the other)" in err
    assert refused(capsys, tiny, tmp_path / "none.gguf")[0] == 4
    assert refused(capsys, tiny, f"{tiny}@device=cuda")[0] == 5
    assert refused(capsys, tiny, f"{tiny}@engine=none")[0] == 2
    assert refused(capsys, tiny, f"{tiny}@speed=high")[0] == 2
    assert refused(capsys, tiny, tiny, "--memory", "1M")[0] == 3
    assert refused(capsys, tiny, tiny, "--min-agreement", "2")[0] == 2
    assert refused(capsys, tiny)[0] == 2


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    text, home = tmp_path / "long.txt", tmp_path / "home"
    text.write_text("All work and no play. " * 40_000, encoding="utf-8")
    command = [sys.executable, "-m", "edgeinfer", "verify", str(tiny), str(tiny), "--text", str(text)]
    variables = {**os.environ, "EDGEINFER_HOME": str(home)}
    running = subprocess.Popen([*command, "--positions", "800000"], env=variables, stderr=subprocess.PIPE, text=True)
    cache = home / "cache"
    while not cache.is_dir() and running.poll() is None:  # it begins to record
        time.sleep(0.05)
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "edgeinfer: interrupted\n")
    assert [path.name for path in cache.iterdir() if path.is_file()] == []


@pytest.mark.model
def test_smollm2_with_one_matrix_in_disorder(
    smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEINFER_THREADS")
    bad = shuffled(smollm2, tmp_path / "bad.gguf", "blk.17.ffn_down.weight")
    code, found, err = verified(capsys, smollm2, bad, "--positions", "64", "--n-prompts", "2", "-n", "8")
    assert code == 1
    assert found["forced"]["kl_mean"] > 0.1
    assert "first at position 1 (after 'The ferry')" in err
