"""Everything about a server that can be chosen, each default written here once. Knows nothing of how it is kept."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from edgeinfer.errors import UsageError

__all__ = ["Limits", "ServerConfig", "is_loopback"]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may be, and what happens beyond, as an HTTP status.

    ``body_bytes`` 413, ``header_bytes`` and ``n_headers`` 431, ``url_bytes`` 414, ``nesting`` of JSON 400,
    ``n_messages`` 400, ``n_choices`` of one request 400, ``n_queue`` requests that wait for a place 429, ``body_s`` for
    a body to arrive 408, ``request_s`` for an answer: it ends with what it has, or with 503 where that is nothing."""

    body_bytes: int = 8 << 20
    header_bytes: int = 16 << 10
    n_headers: int = 100
    url_bytes: int = 4096
    nesting: int = 64
    n_messages: int = 2048
    n_choices: int = 16
    n_queue: int = 64
    body_s: float = 30.0
    request_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("body_bytes", "header_bytes", "n_headers", "url_bytes", "nesting", "n_messages", "n_choices"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.n_queue < 0:
            raise UsageError(f"n_queue is {self.n_queue}, but must be 0 or more")
        for name in ("body_s", "request_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} is {getattr(self, name)}, but must be a number of seconds above 0")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How a server listens, whom it answers, and when it gives up on a model.

    ``host``: an address to listen at; any but a loopback one needs ``api_key``. ``allowed_hosts``: further names, with
    the port where it is not 80, that the Host header may hold. ``allowed_origins``: further origins of pages that may
    ask (``http://localhost:3000``, ``tauri://localhost``). ``memory_bytes``: what all models together may take (None:
    what the machine has). ``idle_s``: a model that nobody has asked for so long is unloaded (0: never). ``stalled_s``:
    so long without a step and `/health` says so; ``hang_s``: and the engine is restarted. ``open_s``: the same for a
    model that is being opened, without a sign of life from its process; `/health` says so after half of it. Raises
    `UsageError`."""

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    memory_bytes: int | None = None
    idle_s: float = 900.0
    stalled_s: float = 4.0
    hang_s: float = 10.0
    open_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port is {self.port}, but must be between 0 and 65535")
        if self.api_key is not None and (not self.api_key.isascii() or len(self.api_key.strip()) < 8):
            raise UsageError("the key must be at least 8 ASCII characters; make one with: openssl rand -hex 24")
        if not is_loopback(self.host) and self.api_key is None:
            raise UsageError(
                f"{self.host} can be reached from other machines: set a key (--api-key-file FILE, or "
                "EDGEINFER_API_KEY), or listen at 127.0.0.1"
            )
        for origin in self.allowed_origins:
            scheme, separator, rest = origin.partition("://")
            if not (scheme and separator) or "*" in origin or "/" in rest:
                raise UsageError(f"{origin!r} is not an origin; write it as a browser does: http://localhost:3000")
        for name in self.allowed_hosts:
            if not name or "/" in name or "*" in name:
                raise UsageError(f"{name!r} is not a host; write it as in the address bar: example.local:8080")

    def host_names(self, local_addresses: tuple[str, ...] = ()) -> frozenset[str]:
        """What the Host header may hold, in lower case. ``local_addresses``: those of this machine, which count where
        it listens at all of them."""
        if is_loopback(self.host):
            names = {*LOOPBACK, _bracketed(self.host)}
        elif self.host in EVERYWHERE:
            names = {*LOOPBACK, *map(_bracketed, local_addresses)}
        else:
            names = {_bracketed(self.host)}
        own = {f"{name}:{self.port}" for name in names} | (names if self.port == 80 else set())
        return frozenset(name.lower() for name in (*own, *self.allowed_hosts))

    def origins(self, host_names: frozenset[str]) -> frozenset[str]:
        """Whose pages may ask: our own, under each of our names, and those that were named."""
        return frozenset(f"http://{name}" for name in host_names) | {origin.lower() for origin in self.allowed_origins}


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    """As in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
