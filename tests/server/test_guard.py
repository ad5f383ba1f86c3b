"""Who may ask: every Host x Origin x key x route exactly as promised; and how much may be asked at once."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Iterator

import pytest
from serving import URL, Call, application, opened, started, user
from starlette.testclient import TestClient

from edgeinfer.errors import UsageError
from edgeinfer.server.config import Limits, ServerConfig
from edgeinfer.server.guard import _is_deeper

KEY = "a-key-of-some-length"
FRIEND = "http://localhost:3000"

HOSTS = {
    "127.0.0.1:8080": True,
    "localhost:8080": True,
    "LOCALHOST:8080": True,
    "[::1]:8080": True,
    "friend.local:8080": True,  # named
    "localhost": False,
    "localhost:8081": False,
    "evil.example": False,
    "127.0.0.1.evil.example:8080": False,
    "0.0.0.0:8080": False,
}
ORIGINS = {
    None: True,
    "http://127.0.0.1:8080": True,
    "http://localhost:8080": True,
    FRIEND: True,
    "tauri://localhost": True,
    "null": False,
    "http://evil.example": False,
    "https://localhost:8080": False,
    "http://localhost:3001": False,
    "http://localhost:3000.evil.example": False,
}
KEYS = {
    "right": {"Authorization": f"Bearer {KEY}"},
    "right, Anthropic's way": {"x-api-key": KEY},
    "right, as a password": {"Authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()},
    "wrong": {"Authorization": f"Bearer {KEY}x"},
    "none": {},
}
ROUTES = ["/health", "/health?verbose=1", "/metrics", "/v1/models", "/", "/openapi.json", "/no-such-route"]
STATUS = {"/no-such-route": 404}


@pytest.fixture(scope="module")
def guarded() -> Iterator[TestClient]:
    config = ServerConfig(
        api_key=KEY, allowed_hosts=("friend.local:8080",), allowed_origins=(FRIEND, "tauri://localhost")
    )
    with opened(config=config) as client:
        yield client


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("key", KEYS)
def test_every_host_and_origin(guarded: TestClient, key: str, route: str) -> None:
    """100 cases each: 3,500 in all."""
    for host, origin in itertools.product(HOSTS, ORIGINS):
        headers = {"Host": host, **KEYS[key], **({"Origin": origin} if origin else {})}
        response = guarded.get(route, headers=headers)
        expected = STATUS.get(route, 200)
        if not HOSTS[host]:
            expected = 421
        elif not ORIGINS[origin]:
            expected = 403
        elif not key.startswith("right") and route != "/health":
            expected = 401
        assert response.status_code == expected, (host, origin, key, route, response.text)
        allowed = response.headers.get("access-control-allow-origin")
        foreign = origin in (FRIEND, "tauri://localhost") and HOSTS[host]
        assert allowed == (origin if foreign else None)


@pytest.mark.parametrize(("host", "origin"), [(host, origin) for host in HOSTS for origin in ORIGINS])
def test_asking_a_model(guarded: TestClient, host: str, origin: str | None) -> None:
    headers = {"Host": host, **({"Origin": origin} if origin else {})}
    good = HOSTS[host] and ORIGINS[origin]
    bad = 421 if not HOSTS[host] else 403
    body = user("x", max_tokens=1)
    with_key = guarded.post("/v1/chat/completions", json=body, headers={**headers, **KEYS["right"]})
    assert with_key.status_code == (200 if good else bad)
    without = guarded.post("/v1/chat/completions", json=body, headers=headers)
    assert without.status_code == (401 if good else bad)


@pytest.mark.parametrize("origin", ORIGINS)
def test_preflights(guarded: TestClient, origin: str | None) -> None:
    headers = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-stainless-os",
    }
    response = guarded.options("/v1/chat/completions", headers={**headers, **({"Origin": origin} if origin else {})})
    assert response.status_code == (401 if origin is None else 204 if ORIGINS[origin] else 403)
    if origin == FRIEND:
        assert response.headers["access-control-allow-origin"] == FRIEND
        assert "x-stainless-os" in response.headers["access-control-allow-headers"]
    else:
        assert response.headers.get("access-control-allow-origin") in (None, origin if ORIGINS[origin] else None)


def test_a_bare_health_tells_nothing_more_than_that(guarded: TestClient) -> None:
    guarded.post("/v1/chat/completions", json=user("x"), headers=KEYS["right"])
    assert guarded.get("/health").json() == {"status": "ok"}
    assert guarded.get("/health", headers=KEYS["right"]).json()["models"] == {"scripted": "ready"}
    assert guarded.post("/health").status_code == 401


def test_a_browser_is_asked_for_the_key(guarded: TestClient) -> None:
    page = guarded.get("/", headers={"Accept": "text/html"})
    assert page.headers["www-authenticate"].startswith("Basic ")
    assert guarded.get("/v1/models").headers["www-authenticate"] == "Bearer"


def test_headers_that_browsers_heed(client: TestClient) -> None:
    for response in (client.get("/"), client.get("/nothing"), client.get("/", headers={"Host": "evil"})):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] == "no-store"
        assert "server" not in response.headers


def test_hosts_and_origins_must_be_single(client: TestClient) -> None:
    twice = [("Host", "127.0.0.1:8080"), ("Host", "evil.example")]
    assert client.get("/health", headers=twice).status_code == 400
    origins = [("Origin", "http://127.0.0.1:8080"), ("Origin", "http://evil.example")]
    assert client.get("/health", headers=origins).status_code == 403


# ---- how it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_others_need_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="set a key"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, api_key=KEY).api_key == KEY


def test_names_of_a_server() -> None:
    assert "[::1]:8080" in ServerConfig(host="::1").host_names()
    everywhere = ServerConfig(host="0.0.0.0", api_key=KEY).host_names(("192.168.1.5", "fe80::1"))
    assert {"192.168.1.5:8080", "[fe80::1]:8080", "localhost:8080"} <= everywhere
    assert "0.0.0.0:8080" not in everywhere
    assert ServerConfig(host="192.168.1.5", api_key=KEY).host_names() == {"192.168.1.5:8080"}
    assert "localhost" in ServerConfig(port=80).host_names()


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"api_key": "short"},
        {"allowed_origins": ("*",)},
        {"allowed_origins": ("localhost:3000",)},
        {"allowed_origins": ("http://a/b",)},
        {"allowed_origins": ("null",)},
        {"allowed_hosts": ("http://a",)},
    ],
)
def test_configurations_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ServerConfig(**wrong)  # type: ignore[arg-type]
    for limits in ({"body_bytes": 0}, {"n_queue": -1}, {"request_s": float("nan")}):
        with pytest.raises(UsageError):
            Limits(**limits)


# ---- how much


@pytest.fixture(scope="module")
def small() -> Iterator[TestClient]:
    with opened(body_bytes=2000, nesting=8, header_bytes=1500, n_headers=20, url_bytes=200, body_s=0.3) as client:
        yield client


def test_sizes(small: TestClient) -> None:
    chat = "/v1/chat/completions"
    assert small.post(chat, json=user("x" * 500)).status_code == 200
    assert small.post(chat, json=user("x" * 2500)).status_code == 413
    big = (json.dumps(user("x" * 1000)).encode() for _ in range(4))
    headers = {"Content-Type": "application/json"}
    assert small.post(chat, content=big, headers=headers).status_code == 413  # in pieces, without a length
    assert small.get("/health", headers={"X-Long": "x" * 2000}).status_code == 431
    assert small.get("/health", headers={f"X-{i}": "x" for i in range(30)}).status_code == 431
    assert small.get("/" + "x" * 300).status_code == 414
    for wrong in ("-1", "1e3", "99999999999999999999"):
        assert small.post(chat, content=b"{}", headers={**headers, "Content-Length": wrong}).status_code == 413


def test_nesting(small: TestClient) -> None:
    chat = "/v1/chat/completions"
    headers = {"Content-Type": "application/json"}
    deep = b"[" * 500 + b"]" * 500
    response = small.post(chat, content=deep, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "json_nesting")
    in_text = user("[" * 100)
    assert small.post(chat, json=in_text).status_code == 200


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        (b"[[]]", 2),
        (b'["[[[["]', 1),
        (b'["\\"[[[["]', 1),
        (b'["\\\\",[[]]]', 3),
        (b"{}", 1),
        (b"", 0),
        (b"[][][][]", 1),
    ],
)
def test_depth_is_that_outside_of_strings(text: bytes, depth: int) -> None:
    assert not _is_deeper(text, depth)
    assert depth == 0 or _is_deeper(text, depth - 1)


def test_what_is_no_json(client: TestClient) -> None:
    chat = "/v1/chat/completions"
    body = json.dumps(user("x")).encode()
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
    ):
        assert client.post(chat, content=body, headers={"Content-Type": kind}).status_code == 415
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert client.post(chat, content=body, headers=packed).status_code == 415
    good = {"Content-Type": "application/json; charset=utf-8"}
    assert client.post(chat, content=body, headers=good).status_code == 200
    for wrong in (b"{", b"\xff\xfe", b"nope", b"[1" + b"0" * 5000 + b"]", b'{"messages": NaN}'):
        response = client.post(chat, content=wrong, headers=good)
        assert response.status_code == 400, (wrong[:20], response.text)
        assert response.json()["error"]["message"]


def test_a_body_that_does_not_come() -> None:
    async def main() -> None:
        app = application(body_s=0.2)
        async with started(app):
            call = Call(app, "/v1/chat/completions", user("x"))
            call._parts[0]["more_body"] = True
            await asyncio.wait_for(call.task, 20)
            assert call.status == 408

    asyncio.run(main())


def test_routes_and_methods(client: TestClient) -> None:
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.get("/v1/nothing").json()["error"]["message"] == "there is nothing here"
    assert client.get(f"{URL}/docs").status_code == 404
    assert client.get("/v1/messages").json()["type"] == "error"
