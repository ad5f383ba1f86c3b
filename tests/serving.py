"""A server over scripted models, asked without sockets; and one behind a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import server_models
from starlette.testclient import TestClient

from edgeinfer.server.app import create_app
from edgeinfer.server.config import Limits, ServerConfig
from edgeinfer.server.guard import Guard
from edgeinfer.server.workers.models import Models, ModelSpec

URL = "http://127.0.0.1:8080"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n"}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
}


def spec(name: str = "scripted", **arguments: Any) -> ModelSpec:
    return ModelSpec(name, arguments, server_models.OPENER)


def application(*specs: ModelSpec, config: ServerConfig | None = None, **options: Any) -> Guard:
    """``options``: of `Models`, and limits by name."""
    config = config or ServerConfig()
    limits = {name: options.pop(name) for name in list(options) if name in Limits.__dataclass_fields__}
    config = replace(config, limits=replace(config.limits, **limits))
    options.setdefault("in_process", True)
    return create_app(config, Models(specs or (spec(),), **options))


@contextlib.contextmanager
def opened(*specs: ModelSpec, **options: Any) -> Iterator[TestClient]:
    with TestClient(application(*specs, **options), base_url=URL) as client:
        yield client


def user(text: str, **fields: Any) -> dict[str, Any]:
    """A chat request."""
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def events(text: str) -> list[tuple[str | None, Any]]:
    """Server-sent events as (name, data)."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if "data" in fields:
            data = fields["data"]
            found.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


# ---- without a client in between: whoever asks may leave when they like


class Call:
    """One request straight to the application: what was sent so far, and a way to leave."""

    def __init__(self, app: Guard, path: str, body: Any, method: str = "POST") -> None:
        raw = json.dumps(body).encode()
        self.status = 0
        self.sent = b""
        self.headers: dict[bytes, bytes] = {}
        self.left = asyncio.Event()
        self._parts = [{"type": "http.request", "body": raw, "more_body": False}]
        headers = [(b"host", b"127.0.0.1:8080"), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "server": ("127.0.0.1", 8080),
            "client": ("127.0.0.1", 5),
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._parts:
            return self._parts.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.sent += message.get("body", b"")

    async def leave(self) -> None:
        self.left.set()
        await asyncio.wait_for(self.task, 20)


@contextlib.asynccontextmanager
async def started(app: Guard) -> AsyncIterator[Models]:
    """The application running on this event loop, without sockets."""
    inner = app._app
    async with inner.router.lifespan_context(inner):  # type: ignore[attr-defined]
        yield inner.state.asking.models  # type: ignore[attr-defined]


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that happens elsewhere."""
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")
