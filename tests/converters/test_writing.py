"""A conversion leaves a whole file or none: whatever fails, whenever it is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest
from hostile_checkpoints import CONFIG, SHAPES, safetensors, write

from edgeinfer import gguf
from edgeinfer.converters import output
from edgeinfer.converters.to_gguf import Options, convert
from edgeinfer.errors import EdgeInferError, FormatError, UsageError
from edgeinfer.files import open_atomic
from edgeinfer.gguf import writer


class Failing:
    """A stream whose n-th write meets a full disk."""

    def __init__(self, stream: IO[bytes], left: int) -> None:
        self._stream, self.left = stream, left

    def write(self, data: Any) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._stream.write(data)


def test_a_full_disk_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = write(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    honest = writer.write
    said: list[str] = []
    left: list[Path] = []
    for n_writes in range(100):
        failing: list[Failing] = []

        def limited(stream: Any, keys: Any, tensors: Any, n: int = n_writes, made: list[Failing] = failing) -> None:
            made.append(Failing(stream, n))
            honest(made[0], keys, tensors)  # type: ignore[arg-type]

        monkeypatch.setattr(writer, "write", limited)
        try:
            convert(folder, out / "model.gguf", Options("Q8_0"))
        except EdgeInferError as error:
            said.append(str(error))
            left += out.iterdir()
        else:
            break
    assert 10 < n_writes < 99
    assert not left
    assert all("No space left" in each for each in said)
    gguf.read(out / "model.gguf")


def test_a_disk_that_is_too_small_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
    with pytest.raises(EdgeInferError, match=r"needs 0 MB, but the disk of .* has 10 MB free"):
        convert(write(tmp_path / "model"), tmp_path / "model.gguf", Options("F16"))


def test_what_the_disk_returns_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "file_sha256", lambda _path: "0" * 64)
    with pytest.raises(FormatError, match="is not what was written to it"):
        convert(write(tmp_path / "model"), tmp_path / "out" / "model.gguf", Options("F16"))
    assert not list((tmp_path / "out").iterdir())


def test_two_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with open_atomic(path, partial=True) as stream:
        stream.write(b"first")
        with pytest.raises(UsageError, match="another process is writing"), open_atomic(path, partial=True):
            pass
    assert path.read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]


def test_what_a_killed_run_left_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    (tmp_path / "model.gguf.partial").write_bytes(b"x" * 10_000)
    with open_atomic(path, partial=True) as stream:
        stream.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Whatever has the final name is sound, and the next run succeeds."""
    large = {**CONFIG, "vocab_size": 40_000}
    weights = safetensors({**SHAPES, "model.embed_tokens.weight": (40_000, 32)})
    folder, out = write(tmp_path / "model", config=large, weights=weights), tmp_path / "model.gguf"
    command = [sys.executable, "-m", "edgeinfer", "convert", str(folder), str(out), "--to", "gguf", "--quant", "q8_0"]
    started = time.monotonic()
    subprocess.run([*command, "--force"], check=True, capture_output=True)
    whole_s = time.monotonic() - started
    for share in (0.5, 0.7, 0.8, 0.9, 0.95):
        child = subprocess.Popen([*command, "--force"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * whole_s)
        child.send_signal(signal.SIGKILL)
        child.wait()
        gguf.read(out)  # the old file or the new one
    subprocess.run([*command, "--force"], check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.gguf"}
