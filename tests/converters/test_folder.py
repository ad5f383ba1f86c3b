"""A package's folder appears whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from onnx_packages import export
from small_models import small_model, written

from edgeinfer import files
from edgeinfer.converters.to_onnx.folder import new_folder
from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.onnx import package


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(small_model("llama"), tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_but_the_folder_is_left(model: Path, tmp_path: Path) -> None:
    made = export(model, tmp_path / "deep" / "out")
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == sorted([*made.files, *made.variants["cpu"].files, "edgeinfer.json"])


def test_an_older_package_is_replaced_only_when_asked(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "out", name="old")
    with pytest.raises(UsageError, match="exists; --force"):
        export(model, tmp_path / "out", name="new")
    assert package.read(tmp_path / "out").name == "old"
    export(model, tmp_path / "out", name="new", force=True)
    assert package.read(tmp_path / "out").name == "new"
    assert names(tmp_path) == ["out", "tiny.gguf"]


def test_what_is_no_package_is_never_replaced(model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("mine")
    (tmp_path / "file").write_text("mine")
    os.symlink(tmp_path / "photos", tmp_path / "link")
    for name in ("photos", "file", "link"):
        with pytest.raises(UsageError, match="exists and is no"):
            export(model, tmp_path / name, force=True)
    assert (tmp_path / "photos" / "one.jpg").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    export(model, tmp_path / "empty")


class Boom(Exception):
    """What goes wrong halfway."""


class Fails:
    """A progress that ends the conversion."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def update(self, done_bytes: int, total_bytes: int) -> None:
        if done_bytes > total_bytes // 2:
            raise self.error

    def note(self, text: str) -> None:
        """Nobody reads along."""


@pytest.mark.parametrize("error", [Boom(), KeyboardInterrupt()])
def test_an_interrupted_run_leaves_nothing(error: BaseException, model: Path, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        export(model, tmp_path / "out", progress=Fails(error))
    assert names(tmp_path) == ["tiny.gguf"]
    export(model, tmp_path / "out", name="old")
    with pytest.raises(type(error)):
        export(model, tmp_path / "out", force=True, progress=Fails(error))
    assert package.read(tmp_path / "out").name == "old"


class FullDisk:
    """Files opened for writing below ``folder`` share a number of writes, after which the disk is full."""

    def __init__(self, folder: Path, left: int, opener: Callable[..., IO[Any]]) -> None:
        self._folder, self.left, self._open = str(folder), left, opener
        self.n_written = 0

    def __call__(self, file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        stream = self._open(file, mode, *args, **more)
        watched = str(file).startswith(self._folder) and not {*mode} <= {*"rbt"}
        return Watched(stream, self) if watched else stream

    def take(self) -> None:
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1
        self.n_written += 1


class Watched:
    """A file on such a disk."""

    def __init__(self, stream: IO[Any], disk: FullDisk) -> None:
        self._stream, self._disk = stream, disk

    def write(self, data: Any) -> int:
        self._disk.take()
        return self._stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


def test_a_disk_that_is_full_at_any_write(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so, nothing is left, and an older package stays; then there is one write more to be had."""
    older = export(model, tmp_path / "old", name="older")
    honest, said = io.open, []
    for n_writes in range(1000):
        disk = FullDisk(tmp_path, n_writes, honest)
        monkeypatch.setattr(io, "open", disk)
        monkeypatch.setattr(builtins, "open", disk)
        out = tmp_path / ("new" if n_writes % 2 else "old")
        try:
            export(model, out, force=True)
        except EdgeInferError as error:
            said.append(str(error))
        else:
            break
        assert names(tmp_path) == ["old", "tiny.gguf"]
        assert package.read(tmp_path / "old") == older
    monkeypatch.undo()
    assert disk.n_written == n_writes == len(said) > 40
    assert all("could not be written: No space left on device" in line for line in said)
    package.read(out).check_hashes()


@pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
@pytest.mark.parametrize("mode", ["kills", "full"])
def test_faults_from_outside(mode: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few of what `tools/conversion_faults.py` does many times."""
    import conversion_faults

    command = [mode, "tiny", "--from-gguf", str(model), "--to", "onnx:int8", "--folder", str(tmp_path / "work")]
    assert conversion_faults.main([*command, "--times", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"], found["damaged"], found["left"], found["ok"]) == (3, [], [], True)


@pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
@pytest.mark.parametrize(("mode", "target"), [("full", "gguf:iq4_nl"), ("kills", "onnx:int8-static")])
def test_faults_of_quantize(
    mode: str, target: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the GGUF file itself, or of a package that is made of it first; of a type that learns from a text."""
    import conversion_faults

    (tmp_path / "words.txt").write_text("Of all the things that words can do, the best is to be read aloud. " * 30)
    command = [mode, "tiny", "--from-gguf", str(model), "--quantize", target, "--folder", str(tmp_path / "work")]
    learning = ["--calibrate", str(tmp_path / "words.txt")] if "static" in target else []
    assert conversion_faults.main([*command, *learning, "--times", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["quantize"], found["runs"], found["damaged"], found["left"]) == (target, 2, [], [])


def test_a_disk_without_room(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=10_000_000))
    with pytest.raises(UsageError, match=r"needs .* MB on the disk of .* but 10 MB are free"):
        export(model, tmp_path / "out")
    assert names(tmp_path) == ["tiny.gguf"]


def test_what_a_killed_run_left_is_cleared_away(model: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from edgeinfer.converters.to_onnx.folder import new_folder\n"
        "with new_folder(Path(sys.argv[1]), 0, False) as folder:\n"
        "    (folder / 'junk').write_text('half'); (folder / 'npu').mkdir(); print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(UsageError, match="another process is writing"):
            export(model, tmp_path / "out")
        child.kill()
    deadline = time.monotonic() + 30
    while True:  # the system frees a dead process's lock in its own time
        try:
            export(model, tmp_path / "out")
            break
        except UsageError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert names(tmp_path) == ["out", "tiny.gguf"]
    package.read(tmp_path / "out").check_hashes()


def test_a_package_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    """A kill between two renames left it beside its name."""
    old = tmp_path / "out.old"
    old.mkdir()
    (old / package.MANIFEST).write_text("{}")
    with pytest.raises(UsageError, match="exists; --force replaces it"), new_folder(tmp_path / "out", 0, False):
        pytest.fail("it was replaced")
    assert names(tmp_path) == ["out"]
    with new_folder(tmp_path / "out", 0, True) as folder:
        (folder / package.MANIFEST).write_text("new")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / package.MANIFEST).read_text() == "new"


def test_files_are_on_disk_before_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _handle: done.append("file"))
    monkeypatch.setattr(files, "sync_dir", lambda folder: done.append(Path(folder).name))
    replace = os.replace

    def renamed(source: Path, target: Path) -> None:
        done.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "replace", renamed)
    with new_folder(tmp_path / "out", 0, False) as folder:
        (folder / "a").write_text("a")
        (folder / "npu").mkdir()
        (folder / "npu" / "b").write_text("b")
    assert done.index("renamed") > max(i for i, what in enumerate(done) if what == "file")
    assert done.count("file") == 3  # the lock's too
    assert done[-1] == tmp_path.name
