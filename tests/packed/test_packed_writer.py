"""Writing an image: whole, or no trace of it, whatever goes wrong and whoever else writes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from packed_loads import FakeLoad, fake_load, holds

from edgeinfer import kernels
from edgeinfer.packed import image, store, writer
from edgeinfer.packed.writer import Writer

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())

Write = Callable[[IO[bytes], bytes | memoryview], None]


@pytest.fixture(autouse=True)
def _switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "1")
    monkeypatch.setattr(store, "LEFT_FREE_BYTES", 0)


@pytest.fixture
def fake(tmp_path: Path) -> FakeLoad:
    return fake_load(tmp_path)


def write(fake: FakeLoad) -> Path | None:
    """The image, if there is one afterwards."""
    Writer(fake.load, fake.model, fake.key)._thread.join(60)
    path = store.image_path(fake.key)
    return path if path.exists() else None


def is_whole(fake: FakeLoad) -> bool:
    descriptor = os.open(store.image_path(fake.key), os.O_RDONLY)
    try:
        return holds(image.read(descriptor, fake.key), fake)
    finally:
        os.close(descriptor)


def left() -> set[str]:
    return {path.name for path in store.folder().iterdir()} - {".lock"}


def test_the_image_is_whole_and_private(fake: FakeLoad) -> None:
    path = write(fake)
    assert path is not None
    assert is_whole(fake)
    assert path.stat().st_mode & 0o777 == 0o600
    assert left() == {path.name}


def failing(at: int, error: int) -> Write:
    """The seam, where write number ``at`` puts half of its bytes and fails."""
    real, count = writer._write, iter(range(1 << 20))

    def write(stream: IO[bytes], data: bytes | memoryview) -> None:
        if next(count) == at:
            real(stream, data[: len(data) // 2])
            raise OSError(error, os.strerror(error))
        real(stream, data)

    return write


N_WRITES = 4  # three weights and the head


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("at", range(N_WRITES + 1))
def test_a_full_disk_leaves_nothing(fake: FakeLoad, monkeypatch: pytest.MonkeyPatch, at: int, error: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write", failing(at, error))
        assert (write(fake) is None) == (at < N_WRITES)
    if at < N_WRITES:
        assert left() == set()
    assert write(fake)
    assert is_whole(fake)


def test_a_failing_sync_leaves_nothing(fake: FakeLoad, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(_stream: IO[bytes]) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(writer, "_sync", sync)
    assert write(fake) is None
    assert left() == set()


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from packed_loads import fake_load
from edgeinfer.packed import store, writer
store.LEFT_FREE_BYTES = 0
real, count = writer._write, iter(range(99))
def write(stream, data):
    if next(count) == int(sys.argv[3]):
        real(stream, data[: len(data) // 2])
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    real(stream, data)
writer._write = write
fake = fake_load(Path(sys.argv[2]))
writer.Writer(fake.load, fake.model, fake.key)._thread.join(60)
"""


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_writer_that_is_killed(fake: FakeLoad, tmp_path: Path, at: int) -> None:
    """Its temporary file is never taken for an image, its lock is free, and the next writer clears it away."""
    folder = tmp_path / "other"
    folder.mkdir()
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent.parent), str(folder), str(at)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(left()) == 1
    assert not list(store.folder().glob("*.bin"))
    assert write(fake)
    assert is_whole(fake)
    assert left() == {f"{fake.key}.bin"}


def test_a_model_that_changed_meanwhile_gets_no_image(fake: FakeLoad) -> None:
    with fake.model.open("r+b") as stream:
        stream.write(b"other")
    assert write(fake) is None
    assert left() == set()


def slowed(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = writer._write

    def write(stream: IO[bytes], data: bytes | memoryview) -> None:
        time.sleep(seconds)
        real(stream, data)

    monkeypatch.setattr(writer, "_write", write)


def test_who_must_go_does_not_wait_long_and_the_next_has_patience(
    fake: FakeLoad, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        slowed(patch, 0.3)
        begun = Writer(fake.load, fake.model, fake.key)
        assert begun._copying.wait(30)
        begun.finish(0.05)
    assert left() == {f"{fake.key}.slow"}
    waiting = Writer(fake.load, fake.model, fake.key)
    assert not waiting._copying.wait(0.2)
    waiting.finish(30)  # it has not begun, so nobody waits for it
    assert left() == {f"{fake.key}.slow"}
    monkeypatch.setattr(writer, "PATIENCE_S", 0.01)
    patient = Writer(fake.load, fake.model, fake.key)
    patient._thread.join(60)
    assert is_whole(fake)
    assert left() == {f"{fake.key}.bin"}


def test_writers_of_the_same_image(fake: FakeLoad, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits, and finds the work done."""
    slowed(monkeypatch, 0.05)
    both = [Writer(fake.load, fake.model, fake.key) for _ in range(2)]
    for one in both:
        one._thread.join(60)
    assert is_whole(fake)
    assert left() == {f"{fake.key}.bin"}


# ---- what the folder may hold


def stored(folder: Path, n: int, size: int = 300_000) -> list[FakeLoad]:
    """Images of several models, the first used longest ago."""
    fakes = []
    for i in range(n):
        fake = fake_load(folder, ((size,),), name=f"m{i}")
        path = write(fake)
        assert path is not None
        os.utime(path, ns=(1_000_000_000 * (i + 1), path.stat().st_mtime_ns))
        fakes.append(fake)
    return fakes


def kept(fakes: list[FakeLoad]) -> list[bool]:
    return [store.image_path(fake.key).exists() for fake in fakes]


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = stored(tmp_path, 3)
    each = store.usage().n_bytes // 3
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", str(3 * each))
    store.used(store.image_path(fakes[0].key))
    assert is_whole(fakes[0])  # being used is no change
    new = fake_load(tmp_path, ((300_000,),), name="new")
    assert write(new)
    assert kept([*fakes, new]) == [True, False, True, True]
    assert store.usage() == store.Usage(3, 3 * each)


def test_what_never_fits_drives_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = stored(tmp_path, 2)
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", str(store.usage().n_bytes))
    assert write(fake_load(tmp_path, ((2_000_000,),), name="large")) is None
    assert kept(fakes) == [True, True]


def test_the_disk_is_not_filled(fake: FakeLoad, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LEFT_FREE_BYTES", 1 << 60)
    assert write(fake) is None
    assert left() == set()


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("off", 0), ("", 8 << 30), ("1", 8 << 30), ("20G", 20 << 30)])
def test_the_variable(monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", text)
    assert store.cap_bytes() == expected
