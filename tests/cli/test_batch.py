"""``edgeinfer batch``: exit codes, what is said, what is printed, and how it ends when it is told to stop."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import onnx_packages
import pytest

from edgeinfer.batch.places import places
from edgeinfer.cli import batch_view, main
from edgeinfer.engines import EngineConfig
from edgeinfer.errors import EngineError, UnsupportedModel

MODEL = ["-m", "m", "--parallel", "3", "--temp", "0"]


class Job:
    """Runs the command in a folder, and looks at what it leaves."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.source, self.out = folder / "in.jsonl", folder / "out.jsonl"
        self._capsys = capsys
        self.stdout = self.stderr = ""

    def run(self, *more: str, output: bool = True) -> int:
        out = ["-o", str(self.out)] if output else []
        code = main(["batch", "-i", str(self.source), *out, *MODEL, *more])
        self.stdout, self.stderr = self._capsys.readouterr()
        return code

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def job(tmp_path: Path, capsys: pytest.CaptureFixture[str], scripted: Any) -> Job:
    made = Job(tmp_path, capsys)
    made.source.write_text("".join(json.dumps({"prompt": f"ö{i}", "id": str(i)}) + "\n" for i in range(8)))
    scripted.n_seq_max = 3
    return made


def test_a_job(job: Job, scripted: Any) -> None:
    assert job.run("--json", "--order", "input") == 0
    assert [line["text"] for line in job.lines()] == [f"You said: ö{i}" for i in range(8)]
    (line,) = job.stdout.splitlines()
    report = json.loads(line)
    assert (report["n_rows"], report["n_done"], report["n_failed"], report["complete"]) == (8, 8, 0, True)
    wanted = {"n_prompt", "n_prefilled", "n_reused", "n_generated", "generated_tps", "n_drafted", "n_accepted"}
    assert wanted <= set(report)
    assert "8 rows done, 0 failed" in job.stderr
    _, arguments = scripted.opened[0]
    assert (arguments["n_parallel"], arguments["kv_cache"], arguments["draft"]) == (3, "off", "off")


def test_failed_rows_are_code_6(job: Job) -> None:
    with job.source.open("a") as stream:
        stream.write("{\n")
    assert job.run() == 6
    assert job.stdout == ""
    assert "out.errors.jsonl" in job.stderr
    assert job.run() == 6, "it is still failed"
    assert "9 of them by earlier runs" in job.stderr


def test_the_same_command_goes_on(job: Job) -> None:
    assert job.run("--limit", "3") == 0
    assert job.run("--json") == 0
    assert json.loads(job.stdout)["n_before"] == 3
    assert job.run("--max-tokens", "5") == 2
    assert "parameters.max_tokens was not given and is 5" in job.stderr
    assert job.run("--max-tokens", "5", "--restart") == 0
    assert {line["usage"]["completion_tokens"] for line in job.lines()} == {5}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_clean_file_and_says_how_to_go_on(
    job: Job, scripted: Any, number: signal.Signals, code: int
) -> None:
    n_asked = 0

    def reply(question: str) -> str:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 60:
            os.kill(os.getpid(), number)
        return f"You said: {question}"

    scripted.reply, scripted.step_s = reply, 0.001
    assert job.run() == code
    n_done = len(job.lines())
    assert n_done < 8
    assert f"{n_done} of 8 rows are done and safe in {job.out}; run the same command again to go on" in job.stderr
    scripted.reply, scripted.step_s = lambda question: f"You said: {question}", 0.0
    assert job.run() == 0
    assert sorted(line["text"] for line in job.lines()) == [f"You said: ö{i}" for i in range(8)]


def test_a_full_disk_is_one_line_and_how_to_go_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeinfer.batch.journal import Journal, WriteError

    append = Journal.append

    def fail(journal: Journal, line: bytes) -> None:
        if journal.path == job.out and len(job.lines()) == 3:
            raise WriteError(journal.path, OSError(28, "No space left on device"))
        append(journal, line)

    monkeypatch.setattr("edgeinfer.batch.runner.Journal.append", fail)
    monkeypatch.setattr("edgeinfer.batch.runner._TICK_S", 0.0)
    assert job.run() == 1
    how, why = job.stderr.splitlines()
    assert why == f"edgeinfer: error: cannot write {job.out}: No space left on device"
    assert f"what is done is safe in {job.out}; run the same command again to go on" in how
    assert len(job.lines()) == 3


def test_dry_run(job: Job) -> None:
    assert job.run("--dry-run", output=False) == 0
    assert "rows      8\n" in job.stdout
    assert "energy    " in job.stdout
    assert job.run("--dry-run", "--json", output=False) == 0
    found = json.loads(job.stdout)
    assert (found["n_rows"], found["n_sampled"], found["n_bad"]) == (8, 8, 0)
    assert not job.out.exists()


def test_wrong_usage(job: Job, scripted: Any, tmp_path: Path) -> None:
    assert job.run(output=False) == 2
    assert "-o FILE" in job.stderr
    assert job.run("--order", "random") == 2
    job.out = tmp_path / "no" / "out.jsonl"
    assert job.run() == 2
    assert "no folder" in job.stderr
    assert scripted.opened == []


def test_an_engine_that_breaks(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise EngineError("it is broken")

    monkeypatch.setattr("edgeinfer.llm.LLM.submit", broken)
    monkeypatch.setattr("edgeinfer.batch.runner._TICK_S", 0.0)
    assert job.run() == 1
    assert "it is broken" in job.stderr


def test_a_terminal_sees_a_bar(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert job.run() == 0
    assert "tokens/s" in job.stderr
    assert "8/8" in job.stderr


def test_a_log_gets_a_line_now_and_then(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch_view, "_LINE_S", 0.0)
    assert job.run() == 0
    assert "rows, 0 failed" in job.stderr
    assert batch_view.duration(None) == "-"
    assert batch_view.duration(3723.4) == "1:02:03"
    assert capsys.readouterr().out == ""


def test_places_by_memory(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(n_ctx=4096)

    def within(room: int) -> int:
        monkeypatch.setattr("edgeinfer.memory.available", lambda: room)
        return places(smollm2, config)

    found = [within(room) for room in (1 << 40, 2 << 30, 1 << 30, 300 << 20)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (16, 1)
    assert 1 < found[2] < 16
    monkeypatch.setattr("edgeinfer.memory.available", lambda: 1 << 40)
    assert places(smollm2, config, cap_bytes=600 << 20) < 16


def test_places_of_a_package(tmp_path: Path) -> None:
    model, package = onnx_packages.small_package(tmp_path)
    config = EngineConfig(n_ctx=64)
    assert places(model, config) == places(package, config) == 16
    assert places(package, config, cap_bytes=1) == 1
    with pytest.raises(UnsupportedModel, match="engine llamacpp runs GGUF files"):
        places(package, config, engine="llamacpp")


@pytest.mark.model
def test_a_real_model_answers_the_same_in_a_batch(
    smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three rows at once, with drafts from the text: each as if it were alone."""
    from edgeinfer import LLM

    rows = tmp_path / "in.jsonl"
    asked = [f"Count from {i} to {i + 5}." for i in (1, 11, 21)]
    rows.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    arguments = ["-i", str(rows), "-o", str(tmp_path / "out.jsonl"), "-m", str(smollm2), "-n", "12", "--temp", "0"]
    assert main(["batch", *arguments, "-c", "256", "--order", "input", "--json", "-md", "ngram"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["n_places"] > 1
    with LLM(str(smollm2), n_ctx=256) as llm:
        alone = [
            llm.chat([{"role": "user", "content": prompt}], max_tokens=12, temperature=0.0).text for prompt in asked
        ]
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [result["text"] for result in results] == alone
