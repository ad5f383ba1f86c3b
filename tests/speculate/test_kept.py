"""The folder of drafts: made once, whole or not at all, found again, made again when damaged, removed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_models import Heard, small_model, written

from edgeinfer import env, kernels
from edgeinfer.errors import BackendUnavailable, DraftUnavailable, ModelNotFound
from edgeinfer.speculate import kept
from edgeinfer.speculate.build import Recipe
from edgeinfer.speculate.draft_file import read_draft
from edgeinfer.speculate.kept import drafts_dir, ensure_draft, kept_drafts, remove_drafts

pytestmark = pytest.mark.skipif(not kernels.available(), reason="weights are converted by our library")

RECIPE = Recipe(n_head=272)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written(small_model(), tmp_path, "a model+.gguf")


def test_made_once(source: Path) -> None:
    heard = Heard()
    path = ensure_draft(source, RECIPE, progress=heard)
    assert path.parent == drafts_dir() == env.cache_dir() / "drafts"
    assert path.name.startswith("a_model_-")
    assert heard.notes == ["making a draft of a model+.gguf, once"]
    made = path.stat().st_mtime_ns
    again = Heard()
    assert ensure_draft(source, RECIPE, progress=again) == path
    assert (again.notes, again.updates, path.stat().st_mtime_ns) == ([], [], made)


def test_the_folder_tells_and_forgets(source: Path, tmp_path: Path) -> None:
    assert (kept_drafts(), remove_drafts()) == ([], 0)
    other = written(small_model(seed=1), tmp_path, "other.gguf")
    first, second = ensure_draft(source, RECIPE), ensure_draft(other, RECIPE)
    leftover = drafts_dir() / ".x.gguf.abc.tmp"
    leftover.write_bytes(b"half")
    sizes = {kept.path: (kept.n_bytes, kept.source) for kept in kept_drafts()}
    assert sizes[first] == (first.stat().st_size, source)
    assert sizes[second] == (second.stat().st_size, other)
    assert sizes[leftover] == (4, None)
    size = first.stat().st_size
    assert remove_drafts(source) == size
    assert {kept.path for kept in kept_drafts()} == {second, leftover}
    assert remove_drafts() == size + 4
    assert kept_drafts() == []


def test_another_model_at_the_same_place_gets_another_draft(source: Path) -> None:
    first = ensure_draft(source, RECIPE)
    written(small_model(seed=1), source.parent, source.name)
    second = ensure_draft(source, RECIPE)
    assert second != first
    assert [kept.path for kept in kept_drafts()] == [second]


def test_a_moved_model_keeps_its_draft(source: Path) -> None:
    first = ensure_draft(source, RECIPE)
    folder = source.parent / "elsewhere"
    folder.mkdir()
    assert ensure_draft(source.rename(folder / source.name), RECIPE) == first


@pytest.mark.parametrize("damage", ["truncated", "zeros", "empty", "another"])
def test_a_damaged_draft_is_made_again(source: Path, damage: str) -> None:
    path = ensure_draft(source, RECIPE)
    good = path.read_bytes()
    bad = {"truncated": good[:-100], "zeros": bytes(len(good)), "empty": b"", "another": source.read_bytes()}[damage]
    path.write_bytes(bad)
    assert ensure_draft(source, RECIPE) == path
    assert path.read_bytes() == good


_CHILD = """
import sys, time
from pathlib import Path
from edgeinfer.speculate import build, head
from edgeinfer.speculate.kept import ensure_draft

head._library = lambda: iter(())

def slowly(*args, made=build._requantized):
    print("working", flush=True)
    time.sleep(float(sys.argv[2]))
    return made(*args)

build._requantized = slowly
print(ensure_draft(Path(sys.argv[1]), build.Recipe(n_head=272)), flush=True)
"""


def child(source: Path, pause_s: float) -> subprocess.Popen[str]:
    """Another process that makes the draft, and waits before each piece; under way when this returns."""
    command = [sys.executable, "-c", _CHILD, str(source), str(pause_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_a_kill_leaves_nothing_that_counts(source: Path) -> None:
    process = child(source, 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [path.name for path in drafts_dir().iterdir() if path.is_file()]
    assert len(left) == 1
    assert left[0].endswith(".tmp")
    path = ensure_draft(source, RECIPE)
    assert read_draft(path).source == source
    assert [kept.path for kept in kept_drafts()] == [path]


def test_a_second_process_waits_for_the_first(source: Path) -> None:
    process = child(source, 0.05)
    heard = Heard()
    path = ensure_draft(source, RECIPE, progress=heard)
    out, _ = process.communicate()
    assert out.splitlines()[-1] == str(path)
    assert heard.notes == ["another process makes the draft of a model+.gguf; waiting for it"]
    assert heard.updates == []


def test_threads_make_it_once(source: Path) -> None:
    heards = [Heard() for _ in range(4)]
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda heard=heard: paths.append(ensure_draft(source, RECIPE, progress=heard)))
        for heard in heards
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert len({*paths}) == 1
    assert sum("making" in note for heard in heards for note in heard.notes) == 1


def test_an_interrupted_build_leaves_nothing(source: Path) -> None:
    class Impatient(Heard):
        def update(self, done_bytes: int, total_bytes: int) -> None:  # noqa: ARG002
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_draft(source, RECIPE, progress=Impatient())
    assert kept_drafts() == []
    begin = time.monotonic()
    ensure_draft(source, RECIPE)  # and nobody holds the lock
    assert time.monotonic() - begin < 60


# ---- why not


def test_no_such_source(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no file .*missing\.gguf"):
        ensure_draft(tmp_path / "missing.gguf", RECIPE)


def test_no_draft_that_is_not_cheaper(tmp_path: Path) -> None:
    source = written(small_model(default="Q4_0"), tmp_path)
    with pytest.raises(DraftUnavailable, match=r"would read .* MB a token, and the model itself reads"):
        ensure_draft(source, Recipe(n_head=300))
    assert kept_drafts() == []


def test_no_room(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))
    with pytest.raises(DraftUnavailable, match=r"a draft needs \d+ MB on the disk of .*drafts, but 1 MB are free"):
        ensure_draft(source, RECIPE)


def test_a_disk_that_fills_up(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "build_draft", full)
    with pytest.raises(DraftUnavailable, match=r"cannot write a draft to .*drafts: No space left on device"):
        ensure_draft(source, RECIPE)


def test_without_the_library(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise BackendUnavailable("no library")

    monkeypatch.setattr("edgeinfer.kernels.codec.load", missing)
    with pytest.raises(BackendUnavailable, match="no library"):
        ensure_draft(source, RECIPE)
    assert kept_drafts() == []
