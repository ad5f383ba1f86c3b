"""The key of packed weights: whatever changes the weights, or how they are packed, changes it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edgeinfer import kernels
from edgeinfer.kernels import library, recording
from edgeinfer.packed import identity

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())


def key(path: Path) -> str:
    found = identity.identify(path)
    assert found is not None
    return found.key


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(os.urandom(1 << 20))
    time.sleep(0.03)
    return path


def test_it_stays_the_same(model: Path) -> None:
    assert key(model) == key(model)
    model.read_bytes()
    assert len(key(model)) == 32


def test_a_change_that_hides_behind_the_old_time(model: Path) -> None:
    """Not even where no sample lies: the time of status change cannot be set."""
    before, times = key(model), model.stat()
    with model.open("r+b") as stream:
        stream.seek(100_000)
        stream.write(b"other")
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert model.stat().st_mtime_ns == times.st_mtime_ns
    assert key(model) != before


def test_another_file_in_its_place(model: Path) -> None:
    before = key(model)
    copy = model.with_name("copy")
    copy.write_bytes(model.read_bytes())
    os.replace(copy, model)
    assert key(model) != before


def test_every_part_of_a_split_model_counts(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    for part in parts:
        part.write_bytes(os.urandom(1000))
    time.sleep(0.03)
    before = key(parts[0])
    parts[2].write_bytes(os.urandom(1000))
    assert key(parts[0]) != before
    parts[1].unlink()
    assert identity.identify(parts[0]) is None


def test_library_and_instruction_set_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(model)
    with monkeypatch.context() as patch:
        patch.setattr(library, "version", lambda: "0.0.0")
        other_version = key(model)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "best_isa", lambda: "scalar")
        other_isa = key(model)
    with monkeypatch.context() as patch:
        patch.setattr(identity, "_layout", lambda: "another")
        other_layout = key(model)
    assert len({before, other_version, other_isa, other_layout}) == 4


def test_a_file_that_is_new_is_not_settled(model: Path) -> None:
    os.utime(model)
    found = identity.identify(model)
    assert found is not None
    assert not found.settled


def test_the_layout_has_every_format() -> None:
    """Something of each, or a change of its layout would go unnoticed."""
    kinds = [i for i in range(64) if kernels.has_matmul(i, 256)]
    packed = recording.layout()
    assert len(kinds) == 12
    blocks = {i: next(n for n in (1, 32, 256) if kernels.has_matmul(i, n)) for i in kinds}
    kernel = library.load()
    assert len(packed) == sum(kernel.ei_packed_bytes(i, 20, 12 * block) for i, block in blocks.items())
    assert packed == recording.layout()
