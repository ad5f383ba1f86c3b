"""Jobs that are killed, and disks that fill up, at every moment there is."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeinfer import files
from edgeinfer.batch import journal, ledger
from edgeinfer.batch.journal import Journal, WriteError

TOOL = Path(__file__).parents[2] / "tools" / "batch_kill.py"
ROWS = [{"prompt": f"question {i}"} for i in range(12)]
WRITES = {"open", "write", "fsync", "replace"}


def killed(*options: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(TOOL), *options], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, result["ok"], result["fault"]) == (0, True, None), done.stdout + done.stderr
    return result


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills with SIGKILL")
def test_a_hundred_kills_at_random_moments() -> None:
    """1,000 rows, of which 200 repeat a prompt and 50 an id: exactly 1,000 results, byte for byte."""
    assert killed("--rows", "1000", "--kills", "100")["kills"] == 100


@pytest.mark.model
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills with SIGKILL")
def test_kills_of_a_real_model(smollm2: Path) -> None:
    """A few here; the tool's own figures are for releases."""
    assert killed("--rows", "24", "--kills", "3", "--tokens", "4", "--model", str(smollm2))["kills"] == 3


class FullDisk:
    """Stands in for ``os`` where a job writes: the nth write, or what makes it last, fails; of a write half is done."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.log: list[str] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(os, name)
        if name not in WRITES:
            return attribute

        def counted(*args: Any, **options: Any) -> Any:
            self.log.append(name)
            if len(self.log) == self.n:
                if name == "write":
                    os.write(args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return attribute(*args, **options)

        return counted


def test_a_disk_that_is_full_at_every_write(job: Any) -> None:
    """A clean stop, whole lines, and the next run finishes: the same bytes as if nothing had been."""
    job.write(*ROWS, b"{", b"{")
    job.run()
    reference = [sorted(path.read_bytes().splitlines()) for path in (job.out, job.path / "out.errors.jsonl")]
    failed: list[str] = []
    for n in range(1, 500):
        for path in job.path.glob("*out*"):
            path.unlink()
        disk, patch = FullDisk(n), pytest.MonkeyPatch()
        for module in (journal, ledger, files):
            patch.setattr(module, "os", disk)
        try:
            job.run()
            ended: BaseException | None = None
        except WriteError as error:
            ended = error
        finally:
            patch.undo()
        if len(disk.log) < n:
            break
        failed.append(disk.log[n - 1])
        assert ended is None or "No space left on device" in str(ended), failed[-1]
        for name in ("out.jsonl", "out.errors.jsonl", "out.metrics.jsonl"):
            job.lines(name)  # all lines are whole
        assert not list(job.path.glob(".*.tmp"))
        said = len(job.said)
        assert job.run().n_done == len(ROWS), failed[-1]
        assert len(job.said) == said, "there was nothing to mend"
        found = [sorted(path.read_bytes().splitlines()) for path in (job.out, job.path / "out.errors.jsonl")]
        assert found == reference, failed[-1]
    assert ended is None
    assert failed.count("write") > 2 * len(ROWS), "results, errors and metrics"
    assert {"open", "fsync", "replace"} <= set(failed)


def test_lines_that_the_disk_forgot_are_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a sync that fails nobody knows what is on disk: the file is what it was at the last one that did not."""
    lines = Journal(tmp_path / "f")
    lines.append(b"one\n")
    lines.sync()
    lines.append(b"two\n")

    def fail(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("edgeinfer.batch.journal.os.fsync", fail)
    with pytest.raises(WriteError, match="Input/output error"):
        lines.sync()
    lines.close()
    lines.close()
    assert (tmp_path / "f").read_bytes() == b"one\n"


def test_an_interrupt_within_a_write_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Journal(tmp_path / "f")
    lines.append(b"one\n")
    write = os.write

    def interrupted(handle: int, data: bytes) -> int:
        write(handle, data[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeinfer.batch.journal.os.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lines.append(b"two\n")
    monkeypatch.undo()
    lines.append(b"three\n")
    lines.close()
    assert (tmp_path / "f").read_bytes() == b"one\nthree\n"


_LIMITED = """
import sys, resource, signal
sys.path.insert(0, sys.argv[3])
import batch_kill
from edgeinfer import batch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
with batch_kill.scripted_llm() as llm:
    try:
        batch.run(sys.argv[1], llm, sys.argv[2], temperature=0.0, max_tokens=6)
    except batch.WriteError as error:
        sys.exit("stopped: " + str(error))
"""


def test_a_file_that_really_cannot_grow(job: Any) -> None:
    """The system itself writes half a line and refuses the rest."""
    pytest.importorskip("resource", reason="limits the size of files")
    job.write(*ROWS)
    job.run()
    reference = sorted(job.out.read_bytes().splitlines())
    limit = len(job.out.read_bytes()) // 2 + 7
    for path in job.path.glob("*out*"):
        path.unlink()
    command = [sys.executable, "-c", _LIMITED, str(job.source), str(job.out), str(TOOL.parent), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "stopped: cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert job.out.read_bytes().endswith(b"\n") or not job.out.read_bytes()
    n_before = len(job.lines())
    assert job.run().n_before == n_before
    assert sorted(job.out.read_bytes().splitlines()) == reference
