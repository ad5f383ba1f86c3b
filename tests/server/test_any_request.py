"""Whatever is asked, by the OpenAPI document or against it, is answered or refused: never a 5xx but 503, never a
restart, and whoever asks beside it gets the text that they would get alone. tools/server_requests.py asks 20,000
times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schema_values import requests
from serving import URL, application, opened, spec, user
from starlette.testclient import TestClient

DOCUMENT: Any = application()._app.openapi()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def small() -> Iterator[TestClient]:
    with opened(spec(n_ctx=256), request_s=30.0) as client:
        yield client


@given(asked=requests(DOCUMENT), canary=st.integers(0, 9))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_request(small: TestClient, asked: tuple[str, str, Any], canary: int) -> None:
    method, path, body = asked
    content = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if content else {}
    response = small.request(method, f"{URL}{path}", content=content, headers=headers)
    assert response.status_code < 500 or response.status_code == 503, response.text
    if response.status_code >= 400:
        assert response.json()["error"]["message"]
    if canary == 0:
        found = small.post("/v1/chat/completions", json=user("canary"))
        assert found.json()["choices"][0]["message"]["content"] == "You said: canary"


def test_nothing_was_restarted(small: TestClient) -> None:
    assert "edgeinfer_engine_restarts_total{" not in small.get("/metrics").text


def test_the_document_has_every_route() -> None:
    assert {path for path in DOCUMENT["paths"] if path.startswith("/v1/")} == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/responses/{name}",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/{name}",
    }
