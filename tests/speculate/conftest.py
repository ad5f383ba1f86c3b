"""Drafts in these tests are made in no time: counting the standard library takes seconds, and `test_head` does it."""

from __future__ import annotations

import pytest

from edgeinfer.speculate import head


@pytest.fixture(autouse=True)
def _few_texts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.module.__name__.rpartition(".")[2] != "test_head":
        monkeypatch.setattr(head, "_library", lambda: iter(["def main():\n    return 0\n"]))
