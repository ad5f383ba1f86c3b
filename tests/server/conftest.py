"""A server with one scripted model, for a module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import opened
from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """Anybody on this machine may ask it; nothing is kept from test to test but its cache."""
    with opened() as found:
        yield found
