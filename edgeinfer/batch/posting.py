"""One HTTP request at a time to an OpenAI-compatible server: bounded in time and size, to be given up from another
thread. Redirects are not followed: the key would go to whoever they name. Proxies are those of the environment."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import ipaddress
import json
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeinfer import __version__
from edgeinfer.errors import EngineError, UsageError

__all__ = ["Call", "NoAnswer", "Poster", "Reply"]

_MOST_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 16
_CONNECT_S = 30.0
_PATHS = ("/chat/completions", "/completions", "/embeddings", "/responses", "/models")


class NoAnswer(EngineError):
    """Nothing came, or not all. ``connected``: whether anybody was there."""

    def __init__(self, message: str, *, connected: bool) -> None:
        super().__init__(message)
        self.connected = connected


@dataclass(frozen=True, slots=True)
class Reply:
    """Any status; the whole body. ``retry_after_s``: how long the server asks to be let alone."""

    status: int
    body: bytes
    retry_after_s: float | None = None


class Call:
    """A request under way, which another thread may give up."""

    def __init__(self, timeout_s: float) -> None:
        self.deadline = time.monotonic() + timeout_s
        self.is_over = False
        self.connected = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def has(self, connected: socket.socket) -> None:
        with self._lock:
            self._socket, self.connected = connected, True
            if self.is_over:
                _shut(connected)

    def give_up(self) -> None:
        """Whoever waits for it gets `NoAnswer` at once."""
        with self._lock:
            self.is_over = True
            if self._socket is not None:
                _shut(self._socket)


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


class Poster:
    """Asks the server at ``url`` (``http://host:port`` or ``…/v1``). ``key``: sent with every request, told to nobody
    else. Thread-safe. Raises `UsageError` for an address or a key that cannot be one."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = _base(url)
        if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
            raise UsageError("the key of the endpoint must be printable ASCII characters without spaces")
        self._key = key
        self._tls = ssl.create_default_context() if self.url.startswith("https:") else None

    @property
    def shows_key(self) -> bool:
        """Whether the key goes over a network unencrypted."""
        return self._key is not None and self._tls is None and not _is_loopback(self.url)

    def hidden(self, text: str) -> str:
        """``text`` without the key, which some servers put into their errors."""
        return text.replace(self._key, "…") if self._key else text

    def send(self, path: str, body: Mapping[str, Any] | None, call: Call) -> Reply:
        """POST ``body`` as JSON, or GET without one. Raises `NoAnswer`."""
        headers = {"Accept": "application/json", "User-Agent": f"edgeinfer/{__version__}"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data, headers)
        left = call.deadline - time.monotonic()
        try:
            with self._opener(call).open(request, timeout=max(0.001, min(_CONNECT_S, left))) as response:
                return _read(response, call)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoAnswer(self.hidden(f"{self.url}: {_why(error, call)}"), connected=call.connected) from None

    def _opener(self, call: Call) -> urllib.request.OpenerDirector:
        """Without the handlers that follow redirects and raise for statuses."""
        opener = urllib.request.OpenerDirector()
        opener.add_handler(urllib.request.ProxyHandler())
        opener.add_handler(_Plain(call))
        if self._tls is not None:
            opener.add_handler(_Secure(call, self._tls))
        return opener


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_watched(http.client.HTTPConnection, self._call), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, call: Call, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._call, self._own = call, context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_watched(http.client.HTTPSConnection, self._call), req, context=self._own)


def _watched(kind: type[http.client.HTTPConnection], call: Call) -> Any:
    """A connection that `Call` can end. Connecting is quick or fails; an answer may take as long as the call has."""

    class Watched(kind):  # type: ignore[valid-type, misc]
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(max(0.001, call.deadline - time.monotonic()))
            call.has(self.sock)

    return Watched


def _read(response: Any, call: Call) -> Reply:
    parts, n_bytes = [], 0
    while block := response.read(_BLOCK_BYTES):
        parts.append(block)
        n_bytes += len(block)
        if n_bytes > _MOST_BYTES:
            raise ValueError(f"an answer of more than {_MOST_BYTES >> 20} MiB")
        if time.monotonic() > call.deadline:
            raise TimeoutError
    if response.length:  # reading in blocks does not notice it
        raise http.client.IncompleteRead(b"", response.length)
    return Reply(response.status, b"".join(parts), _retry_after(response.headers.get("Retry-After")))


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal() and value.isascii() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _why(error: BaseException, call: Call) -> str:
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        error = reason
    if time.monotonic() >= call.deadline or (isinstance(error, TimeoutError) and call.connected):
        return "no whole answer within the time that one may take (--timeout)"
    if call.is_over:
        return "the request was given up"
    if isinstance(error, TimeoutError):
        return "nobody answers"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead | ConnectionResetError):
        return "the server hung up before its answer was whole"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {str(error) or reason}"[:200]


# ---- addresses


def _base(url: str) -> str:
    """The address that paths are added to."""
    try:
        parts = urllib.parse.urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the endpoint {url!r:.200} is no address: {error}") from None
    if "@" in parts.netloc:
        raise UsageError("the endpoint's address must hold no password: give a key in a file, or EDGEINFER_API_KEY")
    plain = all("!" <= mark <= "~" for mark in parts.netloc + parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        raise UsageError(f"the endpoint {url!r:.200} is no address such as http://127.0.0.1:8000/v1")
    if parts.query or parts.fragment:
        raise UsageError(f"the endpoint {url!r:.200} must end with its path: no ? and no #")
    path = parts.path.rstrip("/")
    for known in _PATHS:
        path = path.removesuffix(known)
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
