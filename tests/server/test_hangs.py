"""Engines that hang or die, each in a process of its own: `/health` says so, the process is replaced, and the next
answer is the right one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from serving import Call, application, spec, started, until, user

from edgeinfer.server.config import ServerConfig
from edgeinfer.server.guard import Guard
from edgeinfer.server.workers.models import Models

CHAT = "/v1/chat/completions"
HASTE = {"in_process": False, "stalled_s": 1.0, "hang_s": 2.0}
LONG = (
    120.0  # the machine of a test may stand still for a while; what is promised is measured by tools/server_faults.py
)


async def ask(app: Guard, text: str, **fields: Any) -> tuple[int, Any]:
    call = Call(app, CHAT, user(text, **fields))
    await asyncio.wait_for(call.task, LONG)
    return call.status, json.loads(call.sent) if not fields.get("stream") else call.sent.decode()


async def health(app: Guard) -> tuple[int, Any]:
    call = Call(app, "/health", None, "GET")
    await asyncio.wait_for(call.task, LONG)
    return call.status, json.loads(call.sent)


async def recovered(app: Guard) -> None:
    """`/health` is good again, and so is the answer."""
    for _ in range(int(LONG / 0.1)):
        if (await health(app))[0] == 200:
            break
        await asyncio.sleep(0.1)
    status, found = await ask(app, "canary")
    assert (status, found["choices"][0]["message"]["content"]) == (200, "You said: canary")


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[Guard, Models]]:
    app = application(**{**HASTE, **options})
    async with started(app) as models:
        await recovered(app)
        yield app, models


def test_a_step_that_does_not_end() -> None:
    async def main() -> None:
        async with running() as (app, models):
            first = models.open_models()["scripted"].pid
            hanging = [
                Call(app, CHAT, user("please HANG")),
                Call(app, CHAT, user("please HANG too", stream=True)),
            ]
            await until(lambda: bool(models.trouble()), LONG)
            status, told = await health(app)
            assert status == 503
            assert told["status"] in ("stalled", "restarting")
            await recovered(app)
            await asyncio.wait_for(asyncio.gather(*(call.task for call in hanging)), LONG)
            assert hanging[0].status == 503
            assert json.loads(hanging[0].sent)["error"]["code"] == "engine_error"
            assert b"is restarted" in hanging[1].sent  # it had begun: its error comes as an event
            assert b"[DONE]" not in hanging[1].sent
            assert models.open_models()["scripted"].pid != first
            assert models.n_restarts == {"scripted": 1}
            with pytest.raises(ProcessLookupError):
                os.kill(first or 0, 0)

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a way to stop a process")
def test_a_process_that_stands_still_or_dies() -> None:
    async def main() -> None:
        async with running() as (app, models):
            pid = models.open_models()["scripted"].pid or 0
            os.kill(pid, signal.SIGSTOP)
            status, _ = await ask(app, "hello")
            assert status == 503
            await recovered(app)
            status, found = await ask(app, "then CRASH")
            assert status == 503
            assert "ended" in found["error"]["message"]
            await recovered(app)
            assert models.n_restarts == {"scripted": 2}

    asyncio.run(main())


def test_slow_is_not_hanging() -> None:
    """Many requests, each step short: nothing is restarted however long all of it takes."""

    async def main() -> None:
        async with running(hang_s=30.0) as (app, models):
            answers = await asyncio.gather(*(ask(app, f"count {i}") for i in range(60, 80)))
            assert {status for status, _ in answers} == {200}
            assert models.n_restarts == {}

    asyncio.run(main())


def test_the_process_ends_with_the_server() -> None:
    async def main() -> int:
        async with running() as (_, models):
            return models.open_models()["scripted"].pid or 0

    pid = asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_step_that_must_take_long_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        app = application(spec(step_s=0.001))
        async with started(app) as models:
            await ask(app, "hi")
            model = models.open_models()["scripted"]
            object.__setattr__(model.facts, "token_s", 0.02)
            call = Call(app, CHAT, user("count 2000"))
            await until(lambda: model.n_asked > 0)
            now = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: now + 30)
            model._moved, model._n_computing = now, 500
            assert model.stalled_s() == pytest.approx(3.0)
            model._n_computing = 1
            assert model.stalled_s() == pytest.approx(30.0)
            model.forgive(25)
            assert model.stalled_s() == pytest.approx(5.0)
            monkeypatch.undo()
            await call.leave()

    asyncio.run(main())


def test_where_the_engine_cannot_be_ended_it_is_left_behind() -> None:
    config = ServerConfig()

    async def main() -> None:
        async with running(in_process=True, config=config) as (app, models):
            left = models.open_models()["scripted"]
            status, _ = await ask(app, "then HANG")
            assert status == 503
            await recovered(app)
            assert models.open_models()["scripted"] is not left

    asyncio.run(main())
