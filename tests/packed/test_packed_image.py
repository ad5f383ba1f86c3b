"""The file format of packed weights: what was written is read, and whatever else lies there is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packed_loads import FakeLoad, fake_load, holds

from edgeinfer import kernels
from edgeinfer.kernels.recording import Image
from edgeinfer.packed import image, store
from edgeinfer.packed.writer import Writer

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeLoad:
    return fake_load(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def written(fake: FakeLoad, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[bytes, int]]:
    """The bytes of an image, and its time of change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEINFER_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("EDGEINFER_PACKED_CACHE", "1")
        patch.setattr(store, "LEFT_FREE_BYTES", 0)
        Writer(fake.load, fake.model, fake.key)._thread.join(60)
        path = store.image_path(fake.key)
        yield path.read_bytes(), path.stat().st_mtime_ns


def opened(path: Path, key: str, use: Callable[[Image], Any]) -> Any:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return use(image.read(descriptor, key))
    finally:
        os.close(descriptor)


def put(path: Path, data: bytes, mtime_ns: int) -> Path:
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def refused(path: Path, key: str) -> str:
    with pytest.raises(image.Unfit) as error:
        opened(path, key, lambda found: found)
    return str(error.value)


def test_what_was_written_is_read(fake: FakeLoad, written: tuple[bytes, int], tmp_path: Path) -> None:
    assert opened(put(tmp_path / "a", *written), fake.key, lambda found: holds(found, fake))


def test_buffers_begin_at_pages_of_any_size(fake: FakeLoad, written: tuple[bytes, int], tmp_path: Path) -> None:
    places = opened(put(tmp_path / "a", *written), fake.key, lambda found: found.buffers)
    assert len(places) == 2
    assert all(offset > 0 and offset % 65536 == 0 for _, offset in places)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_head_is_refused(
    fake: FakeLoad, written: tuple[bytes, int], tmp_path: Path, data: st.DataObject
) -> None:
    """Any change of head and table, even one that leaves the file's time as it was."""
    whole, mtime_ns = written
    head = 52 + int.from_bytes(whole[8:12], "little")
    at = data.draw(st.integers(0, head - 1))
    with_what = data.draw(st.binary(min_size=1, max_size=min(40, head - at)))
    changed = whole[:at] + with_what + whole[at + len(with_what) :]
    path = put(tmp_path / "a", changed, mtime_ns)
    if changed == whole:
        assert opened(path, fake.key, lambda found: holds(found, fake))
    else:
        refused(path, fake.key)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1, exclude_max=True), grown=st.binary(max_size=9))
def test_another_length_is_refused(
    fake: FakeLoad, written: tuple[bytes, int], tmp_path: Path, part: float, grown: bytes
) -> None:
    whole, mtime_ns = written
    refused(put(tmp_path / "a", whole[: int(part * len(whole))], mtime_ns), fake.key)
    if grown:
        assert "bytes long" in refused(put(tmp_path / "a", whole + grown, mtime_ns), fake.key)


@pytest.mark.parametrize("how", ["written to", "cut and grown", "replaced", "touched"])
def test_whatever_changes_the_payload_is_noticed(
    fake: FakeLoad, written: tuple[bytes, int], tmp_path: Path, how: str
) -> None:
    whole, mtime_ns = written
    path = put(tmp_path / "a", whole, mtime_ns)
    if how == "written to":
        with path.open("r+b") as stream:
            stream.seek(len(whole) // 2)
            stream.write(b"x")
    elif how == "cut and grown":
        os.truncate(path, len(whole) - 1)
        os.truncate(path, len(whole))
    elif how == "replaced":
        path.write_bytes(whole)
    else:
        os.utime(path)
    assert refused(path, fake.key) == "changed since it was written"


def test_another_key_is_refused(written: tuple[bytes, int], tmp_path: Path) -> None:
    assert refused(put(tmp_path / "a", *written), "0" * 32) == "made from other weights"


def forged(whole: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """An image whose table says something else and whose checksum is right all the same."""
    n_bytes = int.from_bytes(whole[8:12], "little")
    table = json.loads(whole[52 : 52 + n_bytes])
    change(table)
    new = json.dumps(table).encode()
    fixed = whole[:8] + len(new).to_bytes(4, "little") + whole[12:20]
    head = fixed + hashlib.sha256(fixed + new).digest() + new
    return head + whole[len(head) :]


WRONG: dict[str, Callable[[dict[str, Any]], None]] = {
    "no key": lambda table: table.pop("key"),
    "no list": lambda table: table.update(buffers=7),
    "buffer past the end": lambda table: table["buffers"][1].__setitem__(0, 1 << 40),
    "buffer off a page": lambda table: table["buffers"][0].__setitem__(1, 65537),
    "negative": lambda table: table["buffers"][0].__setitem__(1, -65536),
    "float": lambda table: table["buffers"][0].__setitem__(0, 64.0),
    "true": lambda table: table["weights"][0].__setitem__(1, True),
    "huge": lambda table: table["weights"][0].__setitem__(5, 1 << 80),
    "weight past its buffer": lambda table: table["weights"][0].__setitem__(4, 1 << 20),
    "no such buffer": lambda table: table["weights"][0].__setitem__(2, 2),
    "short": lambda table: table["weights"][0].pop(),
    "two dimensions": lambda table: table["weights"][0][3].pop(),
    "long name": lambda table: table["weights"][0].__setitem__(0, "61" * 64),
    "no name": lambda table: table["weights"][0].__setitem__(0, "zz"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_forged_table_is_refused(fake: FakeLoad, written: tuple[bytes, int], tmp_path: Path, what: str) -> None:
    whole, mtime_ns = written
    assert opened(put(tmp_path / "a", forged(whole, lambda _: None), mtime_ns), fake.key, lambda found: found.weights)
    refused(put(tmp_path / "a", forged(whole, WRONG[what]), mtime_ns), fake.key)


def test_no_file_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(image.Unfit, match="not a file"):
            image.read(descriptor, "0" * 32)
    finally:
        os.close(descriptor)
