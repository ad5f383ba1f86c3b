"""``edgeinfer cache`` over a folder with a few states."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kv_states import MODEL, OTHER, ids, quiet_store, save

from edgeinfer import env
from edgeinfer.cli import main


@pytest.fixture
def folder() -> Path:
    """Two states, in the folder that the command looks at."""
    path = env.cache_dir() / "kv"
    store = quiet_store(path, pytest.fail)
    save(store, replace(MODEL, label="qwen \x1b[31m"), ids(1, 2, 3))
    save(store, OTHER, ids(1))
    return path


def answer(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["cache", *args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(["ls"], capsys)
    assert found["folder"] == str(folder)
    assert sorted(line["n_tokens"] for line in found["entries"]) == [1, 3]
    assert main(["cache", "ls"]) == 0
    captured = capsys.readouterr()
    assert "qwen \\x1b[31m" in captured.out
    assert OTHER.digest().hex()[:16] in captured.out
    assert str(folder) in captured.err


def test_a_damaged_file_is_said_and_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = sorted(folder.glob("*.kv"))[0]
    damaged.write_bytes(b"x" * 1000)
    assert main(["cache", "ls", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out.splitlines()[-1])["entries"]) == 1
    assert captured.err == f"kv cache: {damaged.name} was removed: not a saved state of edgeinfer\n"
    assert not damaged.exists()


def test_a_date_that_is_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgeinfer.cli.cache import _when

    assert _when(2.0**63) == "unknown"
    assert _when(None) == "never"
    assert main(["cache", "stats"]) == 0
    assert str(folder) in capsys.readouterr().out


def test_statistics_and_clear(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n_bytes = sum(path.stat().st_size for path in folder.glob("*.kv"))
    figures = answer(["stats"], capsys)
    assert (figures["n_entries"], figures["n_bytes"], figures["n_fingerprints"]) == (2, n_bytes, 2)
    assert answer(["clear"], capsys) == {"removed": 2, "bytes": n_bytes}
    assert answer(["stats"], capsys)["n_entries"] == 0
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "removed 0 saved states, 0 MB\n"


def test_without_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["ls"], capsys)["entries"] == []
    assert answer(["stats"], capsys)["oldest_use"] is None
    assert answer(["clear"], capsys)["removed"] == 0
    assert not (env.cache_dir() / "kv").exists()
