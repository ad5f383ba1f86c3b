"""Server-sent events: what is said as it comes, until it ends or whoever listens has left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from edgeinfer.server.problems import dumps
from edgeinfer.server.waiting import in_time

__all__ = ["ClientLeft", "EventStream", "event", "unless_left"]

_LOG = logging.getLogger("edgeinfer.server")
_STUCK_S = 60.0
"""Whoever reads nothing for so long has left, whatever their connection says: their place is wanted."""
_QUIET_S = 10.0
"""So long without a word, and a comment is sent: proxies keep the connection, and one that is dead is found out."""

T = TypeVar("T")
Message = MutableMapping[str, Any]


class ClientLeft(Exception):
    """Nobody is there any more to hear the answer."""


def event(value: Any, name: str | None = None) -> bytes:
    """One event. ``value`` is JSON, or text that is sent as it is."""
    data = value.encode() if isinstance(value, str) else dumps(value)
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client leaves first: then `ClientLeft`."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait([task, leaving], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


class EventStream(Response):
    """Sends what ``events`` yields. ``close`` is awaited at the end, whoever brought it about; ``quiet`` is sent when
    nothing else has been for a while."""

    def __init__(
        self, events: AsyncGenerator[bytes, None], close: Callable[[], Awaitable[None]], quiet: bytes = b": \n\n"
    ) -> None:
        super().__init__(media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._close, self._quiet = events, close, quiet

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._close()
            if not sending.cancelled() and sending.exception() is not None:
                _LOG.error("a stream broke off", exc_info=sending.exception())

    async def _send_all(self, send: Callable[[Message], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        following: asyncio.Future[bytes] | None = None
        try:
            while True:
                following = following or asyncio.ensure_future(anext(self._events))
                done, _ = await asyncio.wait([following], timeout=_QUIET_S)
                part = self._quiet
                if done:
                    part = following.result()
                    following = None
                await in_time(send({"type": "http.response.body", "body": part, "more_body": True}), _STUCK_S)
        except StopAsyncIteration:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (OSError, TimeoutError):  # the client left between two events, or does not read
            return
        finally:
            if following is not None and not following.done():
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await following
            await self._events.aclose()
