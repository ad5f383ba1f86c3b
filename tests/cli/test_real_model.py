"""One-shot commands with SmolLM2: the errors a user meets, and what a script relies on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer.cli import main

pytestmark = pytest.mark.model
EDGEINFER = [sys.executable, "-m", "edgeinfer"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EDGEINFER, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    code = main(args)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgeinfer: error: ")
    assert err.count("\n") == 1
    return code, err


@pytest.fixture(autouse=True)
def _no_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setenv("EDGEINFER_THREADS", "1")  # several wait for each other where other tests keep the cores busy


def test_an_answer(smollm2: Path) -> None:
    args = ("chat", "-m", str(smollm2), "-p", "What is a Raspberry Pi?", "-n", "16")
    first, second = run(*args, "--seed", "7", "--json"), run(*args, "--seed", "7")
    assert (first.returncode, second.returncode) == (0, 0)
    assert (first.stderr, second.stderr) == ("", "")
    document = json.loads(first.stdout)
    assert second.stdout == document["text"] + "\n"
    assert len(document["token_ids"]) == document["stats"]["n_generated"] == 16
    assert document["finish_reason"] == "length"
    assert "\x1b" not in second.stdout


def test_a_schema(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    args = ["chat", "-m", str(smollm2), "-p", "How many days has a week?", "--temp", "0", "-n", "40"]
    args += ["--json-schema", str(schema)]
    assert main(args) == 0
    assert isinstance(json.loads(capsys.readouterr().out)["n"], int)
    schema.write_text('{"type": "nonsense"}')
    assert refused(capsys, *args)[0] == 2
    schema.write_text("{")
    assert refused(capsys, *args)[0] == 2


def test_models_that_cannot_be(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "chat", "-p", "x", "-m", "smollm2-135")[0] == 4
    assert refused(capsys, "chat", "-p", "x", "-m", str(tmp_path / "none.gguf"))[0] == 4
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(smollm2.read_bytes()[:50_000_000])
    code, err = refused(capsys, "chat", "-p", "x", "-m", str(truncated))
    assert code == 1
    assert "truncated.gguf" in err
    assert refused(capsys, "chat", "-p", "x", "-m", str(smollm2), "--memory", "1M")[0] == 3
    assert refused(capsys, "chat", "-p", "x", "-m", str(smollm2), "--device", "cuda")[0] == 5
    assert refused(capsys, "chat", "-p", "x " * 300, "-m", str(smollm2), "-c", "128")[0] == 2


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_reader_that_leaves(smollm2: Path) -> None:
    script = f"'{sys.executable}' -m edgeinfer chat -m '{smollm2}' -p 'Tell me all about the sea' </dev/null | head -c1"
    done = subprocess.run(
        ["bash", "-c", f"{script}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (len(done.stdout), done.stderr, done.returncode) == (1, "", 141)


def test_generate(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["generate", "-m", str(smollm2), "-p", "One, two, three, four,", "-n", "4", "--temp", "0"]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert "five" in out
    assert err == ""
