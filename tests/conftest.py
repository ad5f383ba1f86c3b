"""What all tests share: real models fetched through our own catalogue, and folders that are nobody's."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeinfer import catalog


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the developer's sessions, settings or measurements; models alone are shared. Commands
    draft only where a test says so: each would measure first what its model costs, as nothing is remembered."""
    models = catalog.models_dir()
    monkeypatch.setenv("EDGEINFER_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("EDGEINFER_MODELS", str(models))
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "0")  # a model's second opening is tested where that is the matter
    monkeypatch.setenv("EDGEINFER_DRAFT", "off")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, fetched if it is not here yet."""
    return catalog.ensure("smollm2-135m").path
