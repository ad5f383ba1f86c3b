"""Saves that fail or die at every single operation, and processes at random work: the old or the new state loads."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kv_states import MODEL, OTHER, TokenIds, quiet_store, save, state_of, temporaries

from edgeinfer import files
from edgeinfer.kv import entry
from edgeinfer.kv import folder as folder_module
from edgeinfer.kv import store as store_module
from edgeinfer.kv.store import Store

SOAK = Path(__file__).parents[2] / "tools" / "kv_soak.py"
OLD, NEW = np.arange(50, dtype=np.int32), np.arange(80, dtype=np.int32)
COUNTED = {"open", "close", "fdopen", "fsync", "chmod", "replace", "unlink", "utime", "lstat", "scandir"}
PIECE_BYTES = 1000
N_BYTES = 2500  # three writes


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "_PIECE_BYTES", PIECE_BYTES)


class Disk:
    """Stands in for ``os`` where the store writes, and does ``harm`` at the nth operation. ``log``: what was done."""

    def __init__(self, n: int, harm: Callable[[str], None]) -> None:
        self.n = n
        self.harm = harm
        self.log: list[str] = []

    def count(self, name: str) -> None:
        self.log.append(name)
        if len(self.log) == self.n:
            self.harm(name)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(os, name)
        if name not in COUNTED:
            return attribute

        def counted(*args: Any, **options: Any) -> Any:
            if name == "close":  # a close that fails has closed all the same
                attribute(*args)
            self.count(name)
            if name == "close":
                return None
            result = attribute(*args, **options)
            return DiskFile(self, result) if name == "fdopen" else result

        return counted


class DiskFile:
    """A file of that disk. A write that is interfered with has written half."""

    def __init__(self, disk: Disk, file: Any) -> None:
        self.disk = disk
        self.file = file

    def __enter__(self) -> DiskFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.disk.count("close of the file")

    def write(self, data: Any) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.disk.count("write")
        self.file.write(data[len(data) // 2 :])

    def truncate(self, n_bytes: int) -> None:
        self.disk.count("truncate")
        self.file.truncate(n_bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def patched(disk: Disk) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    for module in (entry, files, folder_module, store_module):
        patch.setattr(module, "os", disk)
    return patch


def save_on(disk: Disk, folder: Path, said: Callable[[str], None], fingerprint: Any, tokens: TokenIds) -> bool:
    store = Store(folder, said=said, keep_free_bytes=0, patience_s=60)
    patch = patched(disk)
    try:
        return save(store, fingerprint, tokens, N_BYTES)
    finally:
        patch.undo()


@pytest.fixture
def ready(tmp_path: Path) -> Callable[[int], Path]:
    """Makes folders with the old turn of the conversation and somebody else's state."""
    store = quiet_store(tmp_path / "ready", pytest.fail)
    assert save(store, MODEL, OLD, N_BYTES)
    assert save(store, OTHER, OLD, 100)
    return lambda n: Path(shutil.copytree(tmp_path / "ready", tmp_path / str(n) / "kv"))


def check(folder: Path, *, saved: bool) -> None:
    """The old or the new state loads, whole; after it, the next save leaves nothing behind."""
    store = quiet_store(folder, pytest.fail)
    found = store.find(MODEL, NEW)
    assert found is not None
    assert found.n_tokens in ((len(NEW),) if saved else (len(OLD), len(NEW)))
    state = store.load(found)
    assert state is not None
    assert bytes(state) == state_of(MODEL, NEW[: found.n_tokens], N_BYTES)
    assert save(store, MODEL, NEW, N_BYTES)
    store.tidy()
    assert temporaries(folder) == []
    assert store.find(OTHER, OLD) is not None


def test_a_failure_at_every_operation(ready: Callable[[int], Path]) -> None:
    def fail(_name: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    failed: list[str] = []
    for n in range(1, 200):
        folder, said = ready(n), list[str]()
        disk = Disk(n, fail)
        saved = save_on(disk, folder, said.append, MODEL, NEW)
        if len(disk.log) < n:
            break
        failed.append(disk.log[n - 1])
        assert temporaries(folder) == [] or failed[-1] == "unlink"
        check(folder, saved=saved)
        assert saved or (len(said) == 1 and "not kept: No space left on device" in said[0]), failed[-1]
    assert saved
    assert {"open", "fdopen", "truncate", "fsync", "chmod", "replace", "unlink", "close"} <= set(failed)
    assert failed.count("write") >= 5, "tokens, three pieces, head"
    assert failed.count("fsync") == 3, "the file, the file again under the lock, the folder"


def test_a_failure_at_every_operation_of_a_reader(ready: Callable[[int], Path]) -> None:
    def fail(_name: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    failed, misses = list[str](), 0
    for n in range(1, 50):
        folder, said = ready(n), list[str]()
        store, disk = quiet_store(folder, said.append), Disk(n, fail)
        patch = patched(disk)
        try:
            found = store.find(MODEL, NEW)
            state = store.load(found) if found else None
        finally:
            patch.undo()
        if len(disk.log) < n:
            break
        failed.append(disk.log[n - 1])
        misses += state is None
        assert state is not None or (len(said) == 1 and "Input/output error" in said[0]), failed[-1]
        assert state is None or bytes(state) == state_of(MODEL, OLD, N_BYTES)
        check(folder, saved=False)
    assert state is not None
    assert said == []
    assert {"lstat", "scandir", "open"} <= set(failed)
    assert misses >= 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
def test_a_kill_at_every_operation(ready: Callable[[int], Path]) -> None:
    def die(_name: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    in_a_write = 0
    for n in range(1, 200):
        folder = ready(n)
        with warnings.catch_warnings():  # of threads that NumPy started: the child does not use them
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            try:
                save_on(Disk(n, die), folder, lambda _line: None, MODEL, NEW)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        in_a_write += bool(temporaries(folder))
        check(folder, saved=os.WIFEXITED(status))
        if os.WIFEXITED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert os.WIFEXITED(status)
    assert in_a_write >= 8


def soak(*options: str) -> dict[str, Any]:
    """A run of the tool, in a process without threads that it can fork."""
    done = subprocess.run([sys.executable, str(SOAK), *options], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, result["ok"]) == (0, True), done.stdout + done.stderr
    return result


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills with SIGKILL")
def test_kills_at_random_moments() -> None:
    """50 here; the tool with --kills 200 is for releases."""
    assert soak("--kills", "50")["during_a_save"] > 5


def test_two_processes_at_random_work() -> None:
    """A few seconds here; the tool with --seconds 600 is for releases."""
    result = soak("--seconds", "3", "--workers", "2")
    assert all(worker["saved"] > 5 and worker["loaded"] > 5 for worker in result["workers"])
    assert result["peak_of_cap"] > 0.7, "full, or there is nothing to see"
