from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from kv_states import MODEL, OTHER, TALK, TokenIds, ids, loaded, names, quiet_store, save, state_of, temporaries, use

from edgeinfer.errors import UsageError
from edgeinfer.kv import entry
from edgeinfer.kv.store import Store

# ---- find, load, save


def test_a_state_comes_back(store: Store, folder: Path, said: list[str]) -> None:
    state = np.arange(3_000_001, dtype=np.uint8)  # more than one piece, and no whole number of them
    assert store.find(MODEL, TALK) is None
    assert not folder.exists(), "nothing is made before it is needed"
    assert store.save(MODEL, TALK, state.data)
    for reader in (store, quiet_store(folder, said.append)):
        found = reader.find(MODEL, np.append(TALK, 7).astype(np.int32))
        assert found is not None
        assert (found.n_common, found.n_tokens, found.state_bytes) == (200, 200, len(state))
        view = reader.load(found)
        assert view == state.data
        assert not view.readonly
    assert said == []


def test_any_contiguous_buffer_can_be_saved(store: Store) -> None:
    floats = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert store.save(MODEL, ids(1), floats.data)
    assert loaded(store, ids(1)) == floats.tobytes()
    assert store.save(MODEL, ids(2), memoryview(b""))
    assert loaded(store, ids(2)) == b""


def test_the_longest_common_beginning_is_found(store: Store) -> None:
    for tokens in (ids(1, 2, 3, 4, 5), ids(1, 2, 9), ids(1, 2, 3, 8, 8, 8), ids(7)):
        save(store, MODEL, tokens)
    for asked, n_common, n_tokens in [
        (ids(1, 2, 3, 4, 5, 6), 5, 5),
        (ids(1, 2, 3, 4), 4, 5),
        (ids(1, 2, 3, 8, 1), 4, 6),
        (ids(1, 2), 2, 3),  # three share it: the smallest
        (ids(1, 5), 1, 3),
        (ids(7, 7), 1, 1),
    ]:
        found = store.find(MODEL, asked)
        assert found is not None
        assert (found.n_common, found.n_tokens) == (n_common, n_tokens)
    assert store.find(MODEL, ids(2, 3)) is None
    assert store.find(MODEL, ids()) is None


def test_whole_entries_for_states_that_cannot_be_cut(store: Store) -> None:
    for tokens in (ids(1, 2), ids(1, 2, 3, 4), ids(1, 2, 3, 9)):
        assert store.save(MODEL, tokens, memoryview(state_of(MODEL, tokens)), keep_prefixes=True)
    for asked, n_tokens in [(ids(1, 2, 3, 4, 5), 4), (ids(1, 2, 3, 5), 2), (ids(1, 2, 3), 2)]:
        found = store.find(MODEL, asked, whole=True)
        assert found is not None
        assert found.n_common == found.n_tokens == n_tokens
    assert store.find(MODEL, ids(1), whole=True) is None
    assert store.save(MODEL, ids(1), memoryview(b"x"), keep_prefixes=True), "a longer one is no substitute"
    assert loaded(store, ids(1)) == b"x"


def test_another_fingerprint_is_a_miss(store: Store) -> None:
    save(store, MODEL, TALK)
    assert store.find(OTHER, TALK) is None
    save(store, OTHER, TALK)
    found = store.find(OTHER, TALK)
    assert found is not None
    assert store.load(found) == memoryview(state_of(OTHER, TALK))


def test_the_next_turn_takes_the_place_of_the_last(store: Store, folder: Path) -> None:
    save(store, MODEL, TALK[:50])
    save(store, OTHER, TALK[:50])
    save(store, MODEL, TALK[:60])
    aside = np.append(TALK[:50], 9).astype(np.int32)
    save(store, MODEL, aside)
    assert len(names(folder)) == 3, "the other model's and the other branch stay"
    save(store, MODEL, TALK)
    lengths = sorted(line.n_tokens for line in store.ls())
    assert lengths == [50, 51, 200]


def test_the_same_again_is_only_touched(store: Store, folder: Path) -> None:
    save(store, MODEL, TALK)
    (name,) = names(folder)
    os.utime(folder / name, (1000, 1000))
    inode = (folder / name).stat().st_ino
    assert save(store, MODEL, TALK)
    assert (folder / name).stat().st_ino == inode
    assert (folder / name).stat().st_mtime > 1000
    os.utime(folder / name, (1000, 1000))
    assert save(store, MODEL, TALK[:10]), "a longer one holds it"
    assert names(folder) == [name]
    assert (folder / name).stat().st_mtime > 1000


def test_what_is_new_or_gone_is_seen_without_reading_the_rest(
    folder: Path, store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = entry.open_entry

    def counted(path: Path) -> entry.Stream:
        opened.append(path.name)
        return real(path)

    monkeypatch.setattr(entry, "open_entry", counted)
    for start in range(20):
        save(store, MODEL, TALK[start:])
    neighbour = quiet_store(folder, said.append)
    assert neighbour.find(MODEL, TALK) is not None
    assert store.find(MODEL, TALK) is not None
    save(neighbour, MODEL, ids(-5, 5))
    opened.clear()
    assert store.find(MODEL, ids(-5, 5)) is not None
    assert len(opened) == 1
    gone = store.find(MODEL, TALK[3:])
    assert gone is not None
    (folder / gone.name).unlink()
    assert store.load(gone) is None
    assert store.find(MODEL, TALK[3:]) is None
    assert said == []


@pytest.mark.parametrize(
    "tokens", [np.arange(3), np.zeros((2, 2), np.int32), np.zeros(3, np.float32), np.zeros(0, np.int32)]
)
def test_tokens_of_a_wrong_kind(store: Store, tokens: TokenIds) -> None:
    with pytest.raises(UsageError):
        store.save(MODEL, tokens, memoryview(b"x"))


# ---- the cap


def test_the_least_recently_used_goes_first(folder: Path, said: list[str]) -> None:
    size = entry.file_bytes(bytes(4), 1000)
    store = quiet_store(folder, said.append, cap_bytes=3 * size)
    for token in (1, 2, 3):
        save(store, MODEL, ids(token))
        found = store.find(MODEL, ids(token))
        assert found is not None
        use(folder, found.name, 1000 + token)
    first = store.find(MODEL, ids(1))
    assert first is not None
    store.load(first)
    save(store, OTHER, ids(4))
    assert store.find(MODEL, ids(2)) is None
    assert {line.n_bytes for line in store.ls()} == {size}
    assert store.stats().n_bytes == 3 * size
    assert said == []


def test_a_use_in_the_future_is_not_believed(folder: Path, said: list[str]) -> None:
    store = quiet_store(folder, said.append, cap_bytes=2 * entry.file_bytes(bytes(4), 1000))
    save(store, MODEL, ids(1))
    use(folder, names(folder)[0], 1e10)
    save(store, MODEL, ids(2))
    save(store, MODEL, ids(3))
    assert store.find(MODEL, ids(1)) is None
    assert store.find(MODEL, ids(2)) is not None


def test_what_is_being_replaced_goes_last(folder: Path, said: list[str]) -> None:
    """The old turn is there until the new one is: it loads if we are killed in between."""
    store = quiet_store(folder, said.append, cap_bytes=3 * entry.file_bytes(bytes(8), 1000))
    save(store, MODEL, ids(1))
    use(folder, names(folder)[0], 1000)
    save(store, OTHER, ids(1))
    save(store, OTHER, ids(2))
    seen: list[object] = []
    real = entry.write

    def write(*args: object, **options: object) -> None:
        seen.append(quiet_store(folder, said.append).find(MODEL, ids(1)))
        real(*args, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "write", write)
        save(store, MODEL, ids(1, 2))
    assert seen != [None]
    assert len(names(folder)) == 2


def test_too_large_is_said_once_and_costs_nothing(folder: Path, said: list[str]) -> None:
    store = quiet_store(folder, said.append, cap_bytes=5000)
    save(store, MODEL, ids(1))
    assert not save(store, MODEL, ids(2), 6000)
    assert not save(store, MODEL, ids(3), 7000)
    assert len(names(folder)) == 1
    assert temporaries(folder) == []
    assert len(said) == 1
    assert "not kept: the cache may hold" in said[0]


def test_a_short_disk(folder: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(folder, said=said.append, keep_free_bytes=10_000)
    save(store, MODEL, ids(1))
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10_500))
    assert save(store, MODEL, ids(2)), "the older one makes room"
    assert len(names(folder)) == 1
    assert not save(store, MODEL, ids(3), 5000)
    assert len(said) == 1
    assert "room for" in said[0]
    assert store.find(MODEL, ids(2)) is not None
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=0))
    store.tidy()
    assert names(folder) == [], "others need the disk more"


def test_off_touches_nothing(folder: Path, store: Store, said: list[str]) -> None:
    save(store, MODEL, TALK)
    off = quiet_store(folder, said.append, cap_bytes=0)
    assert off.find(MODEL, TALK) is None
    assert not save(off, MODEL, ids(1))
    off.tidy()
    assert len(names(folder)) == 1
    with pytest.raises(UsageError):
        quiet_store(folder, said.append, cap_bytes=-1)


def test_a_lower_cap_is_applied_by_tidying(folder: Path, store: Store, said: list[str]) -> None:
    for token in range(5):
        save(store, MODEL, ids(token))
    quiet_store(folder, said.append, cap_bytes=3000).tidy()
    assert len(names(folder)) == 2


# ---- reading that fails


def test_no_memory_is_a_miss_and_no_fault_of_the_file(
    store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, MODEL, TALK)

    def full(_stream: object, _head: object) -> memoryview:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(entry, "read_state", full)
        assert loaded(store, TALK) is None
    assert loaded(store, TALK) == state_of(MODEL, TALK)
    assert len(said) == 1


def test_a_file_that_cannot_be_read_is_written_anew(
    store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, MODEL, TALK)

    def broken(_stream: object, _head: object) -> memoryview:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(entry, "read_state", broken)
        assert loaded(store, TALK) is None
    assert store.find(MODEL, TALK) is None
    assert save(store, MODEL, TALK)
    assert loaded(store, TALK) == state_of(MODEL, TALK)
    assert len(said) == 1


# ---- what lies there


def test_list_statistics_clear(folder: Path, store: Store, said: list[str]) -> None:
    assert store.ls() == []
    assert store.stats().n_entries == 0
    assert store.clear() == (0, 0)
    save(store, MODEL, TALK)
    save(store, OTHER, ids(1, 2))
    use(folder, next(line.name for line in store.ls() if line.n_tokens == 2), 5000.0)
    lines = store.ls()
    assert [(line.label, line.n_tokens) for line in lines] == [("tiny", 200), ("", 2)]
    assert lines[1].used == 5000.0
    assert lines[0].fingerprint == MODEL.digest().hex()[:16]
    figures = store.stats()
    assert (figures.n_entries, figures.n_fingerprints, figures.oldest_use) == (2, 2, 5000.0)
    assert figures.n_bytes == sum(line.n_bytes for line in lines)
    (folder / lines[0].name).write_bytes(b"short")
    assert [line.n_tokens for line in store.ls()] == [2]
    assert len(said) == 1
    (folder / "notes.txt").write_text("mine")
    assert store.clear() == (1, lines[1].n_bytes)
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "notes.txt"]


def test_a_long_label_is_cut_at_a_character(store: Store) -> None:
    from dataclasses import replace

    save(store, replace(MODEL, label="é" * 100 + "\ud800"), ids(1))
    assert store.ls()[0].label == "é" * 64
