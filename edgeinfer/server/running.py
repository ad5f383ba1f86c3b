"""A server that listens: its socket, its signals, and how it ends. The first SIGTERM or SIGINT drains (what runs is
finished, nothing new is taken), the second leaves at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeinfer.errors import UsageError
from edgeinfer.server.app import create_app
from edgeinfer.server.config import EVERYWHERE, ServerConfig
from edgeinfer.server.workers.models import Models

__all__ = ["bind", "run"]

_BACKLOG = 512
_KEEP_ALIVE_S = 30
_HEAD_S = 30.0


def bind(config: ServerConfig) -> socket.socket:
    """The listening socket. Raises `UsageError` for an address that cannot be listened at."""
    host = config.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere it would let two servers share a port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, config.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        where = f"{config.host}:{config.port}"
        raise UsageError(f"cannot listen at {where}: {error.strerror}; choose another --port or --host") from error
    return listening


def run(
    config: ServerConfig,
    models: Models,
    *,
    preload: tuple[str, ...] = (),
    listening: Callable[[str], None] = lambda _url: None,
    draining: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal ends it, in the main thread. ``listening`` hears the address once it is bound, ``draining``
    when the first signal has come; the second ends the process. Raises what keeps a preloaded model from opening."""
    opened = bind(config)
    config = replace(config, port=opened.getsockname()[1])
    errors: list[BaseException] = []

    def failed(error: BaseException) -> None:
        errors.append(error)
        server.should_exit = True

    app = create_app(config, models, preload=preload, failed=failed, local_addresses=_addresses(config))
    settings = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        h11_max_incomplete_event_size=4 * config.limits.header_bytes,
    )
    server = _Server(settings, models, draining)
    host = f"[{config.host}]" if ":" in config.host else config.host
    listening(f"http://{host}:{config.port}")
    try:
        asyncio.run(server.serve([opened]))
    finally:
        opened.close()
    if errors:
        raise errors[0]


def _addresses(config: ServerConfig) -> tuple[str, ...]:
    """The addresses of this machine, by which others know it, where it listens at all of them."""
    if config.host not in EVERYWHERE:
        return ()
    import psutil

    kinds = (socket.AF_INET, socket.AF_INET6)
    found = [each for addresses in psutil.net_if_addrs().values() for each in addresses if each.family in kinds]
    return tuple(sorted({each.address.partition("%")[0] for each in found}))


class _Server(uvicorn.Server):
    """Ends as we promise: uvicorn itself would take a second SIGTERM for the first."""

    def __init__(self, settings: uvicorn.Config, models: Models, draining: Callable[[], None]) -> None:
        super().__init__(settings)
        self._models, self._draining = models, draining

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if not self.should_exit:
            self.should_exit = True
            self._draining()
            return
        self._models.kill()
        os._exit(128 + sig)  # whoever asks twice wants out now, whatever threads are doing


class _Protocol(H11Protocol):
    """Drops a connection whose request does not come: uvicorn waits for the rest of a head without end."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def _watch(self) -> None:
        self.loop.call_later(_HEAD_S, self._look, self.cycle)

    def _look(self, asked: Any) -> None:
        """Still the request of before, which is over, or none: nothing whole has come since."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.cycle is asked and (asked is None or asked.response_complete):
            self.transport.close()
        else:
            self._watch()
