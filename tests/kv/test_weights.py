from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeinfer import env
from edgeinfer.catalog import store
from edgeinfer.kv import weights
from edgeinfer.kv.weights import weights_hash

DATA = b"weights" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read as a whole. Times count as settled at once."""
    paths: list[Path] = []
    real = store.file_sha256
    monkeypatch.setattr(weights, "_SETTLED_NS", -1)

    def counted(path: Path, report: Callable[[int], None]) -> str:
        paths.append(path)
        return real(path, report)

    monkeypatch.setattr(weights, "file_sha256", counted)
    return paths


def test_a_file_is_read_once(model: Path, read: list[Path]) -> None:
    assert [weights_hash(model) for _ in range(3)] == [SHA256] * 3
    assert read == [model]


@pytest.mark.skipif(os.name != "posix", reason="the time of change and links are POSIX's")
def test_another_content_of_the_same_size_and_time_is_noticed(model: Path, read: list[Path]) -> None:
    weights_hash(model)
    before = model.stat()
    time.sleep(0.02)
    model.write_bytes(DATA[::-1])
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights_hash(model) == hashlib.sha256(DATA[::-1]).hexdigest()
    (model.parent / "link").symlink_to(model)
    assert weights_hash(model.parent / "link") != SHA256
    assert len(read) == 2, "a link is the same file"


def test_what_was_just_written_is_not_remembered(
    model: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second write within one tick of the clock would look the same."""
    monkeypatch.setattr(weights, "_SETTLED_NS", 10**12)
    assert [weights_hash(model) for _ in range(2)] == [SHA256] * 2
    assert len(read) == 2


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"NAME": 5}', b'{"NAME": [1, 2, 3, 4, "x"]}', b'{"NAME": [1, 2, 3]}'],
)
def test_a_damaged_memory_is_none(model: Path, read: list[Path], damage: bytes) -> None:
    memory = env.cache_dir() / "kv" / "weights.json"
    memory.parent.mkdir(parents=True)
    memory.write_bytes(damage.replace(b"NAME", str(model).encode()))
    assert [weights_hash(model) for _ in range(2)] == [SHA256] * 2
    assert len(read) == 1


def test_the_memory_does_not_grow(model: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_MAX_FILES", 3)
    for n in range(5):
        other = model.with_name(f"{n}.gguf")
        other.write_bytes(b"%d" % n)
        weights_hash(other)
    assert len(read) == 5
    memory = json.loads((env.cache_dir() / "kv" / "weights.json").read_text())
    assert [Path(name).name for name in memory] == ["2.gguf", "3.gguf", "4.gguf"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        weights_hash(tmp_path / "none")
