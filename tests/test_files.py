"""The one writer of files, and what its errors say."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgeinfer import files


def test_a_full_disk_says_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """'No space left on device' was all that a user read, of a chat's session and of what tune had measured."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.atomic_write(tmp_path / "kept.json", b"x")
    assert caught.value.filename == str(tmp_path / "kept.json")
    assert list(tmp_path.iterdir()) == []


def test_one_file_by_several_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, hard = tmp_path / "one", tmp_path / "other", tmp_path / "hard"
    assert files.is_same(one, tmp_path / "x" / ".." / "one")  # neither is there
    assert not files.is_same(one, other)
    one.write_text("a")
    other.write_text("a")
    hard.hardlink_to(one)
    monkeypatch.chdir(tmp_path)
    assert files.is_same("one", str(hard))
    assert not files.is_same(one, other)
    assert not files.is_same(one, "hf:\0")
