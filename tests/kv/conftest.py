"""A store in a folder of its own, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from kv_states import quiet_store

from edgeinfer.kv.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "kv"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(folder: Path, said: list[str]) -> Store:
    return quiet_store(folder, said.append)
