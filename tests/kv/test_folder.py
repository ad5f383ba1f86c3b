"""Others in the folder: writers, threads, holders of the lock, links, other users."""

from __future__ import annotations

import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kv_states import MODEL, TALK, ids, loaded, names, quiet_store, save, state_of, temporaries

from edgeinfer import files
from edgeinfer.kv import entry
from edgeinfer.kv.folder import Folder
from edgeinfer.kv.store import Store

posix = pytest.mark.skipif(os.name != "posix", reason="modes, owners and links of POSIX")

# ---- others in the folder


def test_a_live_writer_counts_and_a_dead_one_is_swept(folder: Path, store: Store, said: list[str]) -> None:
    save(store, MODEL, ids(1))
    (name,) = names(folder)
    dead = folder / f".{name}.dead.tmp"
    dead.write_bytes(bytes(500))
    (folder / "notes.txt").write_text("mine")
    rooms = Folder(folder, 1 << 30, 0, 10.0, said.append)
    with rooms.adding(entry.file_name(MODEL.digest(), b"\1\0\0\0"), 5000):
        assert store.stats().writing_bytes == 5500
        store.tidy()
        assert store.stats().writing_bytes == 5000
        tight = quiet_store(folder, said.append, cap_bytes=5600)
        assert not save(tight, MODEL, ids(2))
    assert not dead.exists()
    assert (folder / "notes.txt").exists()
    assert len(said) == 1


def test_a_lock_that_is_held(folder: Path, store: Store, said: list[str]) -> None:
    save(store, MODEL, TALK)
    hasty = Store(folder, said=said.append, keep_free_bytes=0, patience_s=0.02)
    with files.lock(folder / "lock"):
        assert loaded(hasty, TALK) == state_of(MODEL, TALK), "reading takes no lock"
        assert not save(hasty, MODEL, ids(1))
        assert not save(hasty, MODEL, ids(1))
        hasty.tidy()
    assert len(said) == 2
    assert all("another process has held it" in line for line in said)
    assert save(hasty, MODEL, ids(1))


def test_threads_of_one_store(folder: Path, said: list[str]) -> None:
    store = quiet_store(folder, said.append, cap_bytes=40_000)
    wrong: list[str] = []

    def work(seed: int) -> None:
        chance = np.random.default_rng(seed)
        for _ in range(25):
            n_tokens = int(chance.integers(1, 40))
            tokens = TALK[:n_tokens] + np.int32(chance.integers(3))
            save(store, MODEL, tokens, 3000)
            found = store.find(MODEL, tokens)
            state = store.load(found) if found else None
            if found is not None and state is not None:
                whole = np.arange(tokens[0], tokens[0] + found.n_tokens, dtype=np.int32)
                if bytes(state) != state_of(MODEL, whole, 3000):
                    wrong.append(found.name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert wrong == []
    assert said == []
    assert temporaries(folder) == []
    assert store.stats().n_bytes <= 40_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_forked_under_the_lock_does_not_keep_it(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with files.lock(tmp_path / "lock"):
        with warnings.catch_warnings():  # of threads that NumPy started: the child does not use them
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            os.read(read_end, 1)
            os._exit(0)
    try:
        with files.lock(tmp_path / "lock", patience_s=5):
            pass
    finally:
        os.write(write_end, b"x")
        os.waitpid(child, 0)
        os.close(read_end)
        os.close(write_end)


# ---- the folder is ours, and private


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_the_owner_can_read(folder: Path, store: Store, umask: int) -> None:
    before = os.umask(umask)
    try:
        save(store, MODEL, TALK)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    folder.chmod(0o755)
    save(store, MODEL, ids(1))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@posix
def test_links_are_not_followed(folder: Path, store: Store, tmp_path: Path, said: list[str]) -> None:
    save(store, MODEL, TALK)
    (name,) = names(folder)
    elsewhere = tmp_path / "elsewhere"
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    assert quiet_store(folder, said.append).find(MODEL, TALK) is None
    assert names(folder) == []
    assert elsewhere.exists()
    assert said == [f"kv cache: {name} was removed: not a regular file"]
    (folder / "lock").unlink()
    (folder / "lock").symlink_to(tmp_path / "precious")
    assert not save(store, MODEL, ids(1))
    assert not (tmp_path / "precious").exists()


@posix
def test_a_folder_that_is_a_link_is_not_used(folder: Path, store: Store, tmp_path: Path, said: list[str]) -> None:
    save(store, MODEL, TALK)
    (tmp_path / "link").symlink_to(folder)
    linked = quiet_store(tmp_path / "link", said.append)
    assert linked.find(MODEL, TALK) is None
    assert not save(linked, MODEL, ids(1))
    assert linked.clear() == (0, 0)
    assert len(names(folder)) == 1
    assert len([line for line in said if "is not used" in line]) == 1


@posix
def test_a_folder_of_somebody_else_is_not_used(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, MODEL, TALK)
    someone = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: someone)
    assert store.find(MODEL, TALK) is None
    assert not save(store, MODEL, ids(1))
    assert len(names(folder)) == 1


@posix
def test_what_is_no_file_is_left_alone(folder: Path, store: Store, said: list[str]) -> None:
    save(store, MODEL, TALK)
    (name,) = names(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    for _ in range(2):
        assert store.find(MODEL, TALK) is None
    assert store.clear() == (0, 0)
    assert said == [f"kv cache: {name} was left alone: not a regular file"]


@posix
def test_a_pipe_does_not_block(folder: Path, store: Store, said: list[str]) -> None:
    save(store, MODEL, TALK)
    (name,) = names(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert quiet_store(folder, said.append).find(MODEL, TALK) is None
    assert names(folder) == []
