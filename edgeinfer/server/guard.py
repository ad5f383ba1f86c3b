"""Who may ask, and how much at once: the checks that every request passes before any route sees it.

In this order: size of headers and address, Host, Origin, key, then the body's size, time and nesting. A page of another
site cannot reach a local server through a browser: its Origin is not ours, and a name of its own that it points at our
address (DNS rebinding) is not ours either."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import numpy as np

from edgeinfer.server.config import Limits, ServerConfig
from edgeinfer.server.problems import Problem, response
from edgeinfer.server.waiting import in_time

__all__ = ["Guard"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_NOTHING = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_SAFE = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"x-frame-options": b"DENY",
    b"cache-control": b"no-store",
    b"content-security-policy": _NOTHING,
}
"""Headers of every response that does not set them itself."""

_OPENING, _CLOSING = np.frombuffer(b"[{", np.uint8), np.frombuffer(b"]}", np.uint8)
_NAMES = re.compile(rb"[A-Za-z0-9, -]+")
_AT_ONCE = 64 << 10  # bytes of JSON that are looked through on the event loop


class Guard:
    """ASGI middleware around ``app``. ``local_addresses``: those of this machine, for a server that listens at all."""

    def __init__(self, app: App, config: ServerConfig, local_addresses: tuple[str, ...] = ()) -> None:
        self._app = app
        self._limits = config.limits
        self._key = config.api_key.encode() if config.api_key else None
        self._hosts = config.host_names(local_addresses)
        self._origins = config.origins(self._hosts)
        self._foreign = frozenset(origin.lower() for origin in config.allowed_origins)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        extra: dict[bytes, bytes] = {}
        try:
            origin = self._admit(scope)
            if origin in self._foreign:
                extra = {b"access-control-allow-origin": (origin or "").encode(), b"vary": b"Origin"}
            if origin is not None and _is_preflight(scope):
                await _allow(scope, extra, send)
                return
            scope["edgeinfer.key"] = self._check_key(scope)
            body = await self._body(scope, receive)
        except Problem as problem:
            answer = response(problem, scope["path"])
            await answer(scope, receive, _with_headers(send, extra))
            return
        await self._app(scope, _replayed(body, receive), _with_headers(send, extra))

    # ---- who

    def _admit(self, scope: MutableMapping[str, Any]) -> str | None:
        """The Origin, if one is given and may ask. Raises `Problem`."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if len(scope["raw_path"] or b"") + len(scope["query_string"]) > self._limits.url_bytes:
            raise Problem(414, f"the address is longer than {self._limits.url_bytes} bytes", code="url_too_long")
        n_bytes = sum(len(name) + len(value) + 4 for name, value in headers)
        if n_bytes > self._limits.header_bytes or len(headers) > self._limits.n_headers:
            most = f"{self._limits.n_headers} headers of {self._limits.header_bytes} bytes"
            raise Problem(431, f"more than {most} together", code="headers_too_large")
        hosts = _values(headers, b"host")
        if len(hosts) != 1:
            raise Problem(400, "exactly one Host header is needed", code="invalid_host")
        if hosts[0].lower() not in self._hosts:
            raise Problem(421, f"this server is not {hosts[0][:80]!r} (see --allow-host)", code="invalid_host")
        origins = _values(headers, b"origin")
        if not origins:
            return None
        if len(origins) > 1 or origins[0].lower() not in self._origins:
            raise Problem(403, f"pages of {origins[0][:80]!r} may not ask (see --allow-origin)", code="invalid_origin")
        return origins[0].lower()

    def _check_key(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether whoever asks may know all: with the right key, or where none is needed. A bare `/health` alone is for
        everybody. Raises `Problem`."""
        if self._key is None or any(hmac.compare_digest(given, self._key) for given in _keys(scope["headers"])):
            return True
        if scope["path"] == "/health" and scope["method"] in ("GET", "HEAD") and not scope["query_string"]:
            return False
        page = scope["method"] == "GET" and any(b"text/html" in value for value in _raw(scope["headers"], b"accept"))
        scheme = 'Basic realm="edgeinfer, any name, the key as password"' if page else "Bearer"
        message = "the key is missing or wrong: send it as 'Authorization: Bearer KEY'"
        raise Problem(401, message, code="invalid_api_key", headers={"WWW-Authenticate": scheme})

    # ---- what

    async def _body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        """The whole body, within limits of size, time and nesting. Raises `Problem`."""
        limits = self._limits
        length = _values(scope["headers"], b"content-length")
        if length and (not length[0].isdigit() or int(length[0]) > limits.body_bytes):
            raise _too_large(limits)
        try:
            body = await in_time(_read(receive, limits), limits.body_s)
        except TimeoutError:
            raise Problem(
                408,
                f"the body did not arrive within {limits.body_s:g} s",
                code="body_timeout",
                headers={"Connection": "close"},
            ) from None
        if not body:
            return body
        kinds = _values(scope["headers"], b"content-type")
        kind = kinds[0].partition(";")[0].strip().lower() if len(kinds) == 1 else ""
        if kind != "application/json" or _values(scope["headers"], b"content-encoding"):
            raise Problem(
                415, "the body must be plain JSON: Content-Type: application/json", code="invalid_content_type"
            )
        if len(body) > _AT_ONCE:
            deep = await asyncio.to_thread(_is_deeper, body, limits.nesting)
        else:
            deep = _is_deeper(body, limits.nesting)
        if deep:
            raise Problem(400, f"the JSON is nested deeper than {limits.nesting}", code="json_nesting")
        return body


async def _read(receive: Receive, limits: Limits) -> bytes:
    parts: list[bytes] = []
    n_bytes, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "the client left", code="client_left")
        part = message.get("body", b"")
        n_bytes += len(part)
        if n_bytes > limits.body_bytes:
            raise _too_large(limits)
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large(limits: Limits) -> Problem:
    message = f"the body is larger than {limits.body_bytes} bytes"
    return Problem(413, message, code="body_too_large", headers={"Connection": "close"})


def _is_deeper(body: bytes, nesting: int) -> bool:
    """Before anything parses it, in time linear in the body whatever it holds: without escapes every quote begins or
    ends a string, and what is left outside of strings is counted."""
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    marks = np.frombuffer(outside, np.uint8)
    steps = np.isin(marks, _OPENING).astype(np.int8) - np.isin(marks, _CLOSING).astype(np.int8)
    return bool(len(steps)) and int(np.cumsum(steps, dtype=np.int64).max()) > nesting


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` with the body in one piece first."""
    done = False

    async def again() -> Message:
        nonlocal done
        if done:
            return await receive()
        done = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


# ---- headers


def _raw(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for value in _raw(headers, name)]


def _keys(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Every key that a client may have sent: as OpenAI's and Anthropic's clients do, or as a browser's password."""
    keys = list(_raw(headers, b"x-api-key"))
    for value in _raw(headers, b"authorization"):
        scheme, _, rest = value.partition(b" ")
        if scheme.lower() == b"bearer":
            keys.append(rest.strip())
        elif scheme.lower() == b"basic":
            try:
                keys.append(base64.b64decode(rest.strip(), validate=True).partition(b":")[2])
            except (binascii.Error, ValueError):
                continue
    return keys


def _is_preflight(scope: MutableMapping[str, Any]) -> bool:
    return scope["method"] == "OPTIONS" and bool(_raw(scope["headers"], b"access-control-request-method"))


async def _allow(scope: MutableMapping[str, Any], extra: dict[bytes, bytes], send: Send) -> None:
    """Answer a browser that asks whether its page may ask: with any header, for those of clients' libraries are
    many."""
    names = b", ".join(_raw(scope["headers"], b"access-control-request-headers"))
    headers = {
        **extra,
        b"access-control-allow-methods": b"GET, POST, DELETE",
        b"access-control-allow-headers": names if _NAMES.fullmatch(names) else b"authorization, content-type",
        b"access-control-max-age": b"600",
    }
    with_safe = _with_headers(send, headers)
    await with_safe({"type": "http.response.start", "status": 204, "headers": []})
    await with_safe({"type": "http.response.body", "body": b""})


def _with_headers(send: Send, extra: dict[bytes, bytes]) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in {**_SAFE, **extra}.items() if name not in present]
            message = {**message, "headers": headers}
        await send(message)

    return sender
