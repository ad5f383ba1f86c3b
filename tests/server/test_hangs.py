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
from pathlib import Path
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


# ---- while a model is opened

OPENING: dict[str, Any] = {**HASTE, "open_s": 2.0}
HERE: dict[str, Any] = {"open_s": 0.5}  # in this process, where nothing has to start first


async def until_health(app: Guard, status: int, word: str) -> None:
    for _ in range(int(LONG / 0.05)):
        found, told = await health(app)
        if (found, told["status"]) == (status, word):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"health never was {status} {word}")


def test_a_model_that_hangs_while_it_is_opened(tmp_path: Path) -> None:
    """Whoever waits is told, it is opened once more, and others are served meanwhile."""

    async def main() -> None:
        app = application(spec(), spec("late", hangs=str(tmp_path / "once")), **OPENING)
        async with started(app) as models:
            await recovered(app)
            waiting = [
                Call(app, CHAT, user("x", model="late")),
                Call(app, CHAT, user("x", model="late", stream=True)),
                Call(app, "/v1/embeddings", {"input": "x", "model": "late"}),
                Call(app, "/tokenize", {"content": "x", "model": "late"}),
            ]
            await until(lambda: models.state("late") == "stalled", LONG)
            assert (await health(app))[0] == 503
            status, found = await ask(app, "canary")
            assert (status, found["choices"][0]["message"]["content"]) == (200, "You said: canary")
            await asyncio.wait_for(asyncio.gather(*(call.task for call in waiting)), LONG)
            for call in waiting:
                assert call.status == 503
                told = json.loads(call.sent)["error"]
                assert (told["code"], b"retry-after" in call.headers) == ("engine_error", True)
                assert "late showed no sign of life for 2 s while it was opened" in told["message"]
            await until_health(app, 200, "ok")
            status, found = await ask(app, "hello", model="late")
            assert (status, found["choices"][0]["message"]["content"]) == (200, "You said: hello")
            assert models.n_restarts == {"late": 1}

    asyncio.run(main())


def test_one_that_never_opens_is_left_to_whoever_asks_next() -> None:
    async def main() -> None:
        app = application(spec(), spec("never", hangs=True), spec("other"), **HERE)
        async with started(app) as models:
            call = Call(app, CHAT, user("x", model="never"))
            await until(lambda: models.state("never") == "loading")
            other = Call(app, CHAT, user("x", model="other"))  # opened one after the other: it waits
            await asyncio.wait_for(call.task, LONG)
            assert call.status == 503
            await until_health(app, 503, "failed")
            await asyncio.wait_for(other.task, LONG)
            assert other.status == 200
            assert (await ask(app, "canary"))[0] == 200
            assert models.n_restarts == {"never": 1}

    asyncio.run(main())


@pytest.mark.parametrize("where", [OPENING, {"open_s": 1.0}])
def test_opening_that_works_for_long_is_no_hang(where: dict[str, Any]) -> None:
    async def main() -> None:
        app = application(spec(busy_s=2.0 * where["open_s"]), **where)
        async with started(app) as models:
            assert (await ask(app, "hello"))[0] == 200
            assert models.n_restarts == {}

    asyncio.run(main())


def test_a_model_that_hangs_where_the_server_begins(tmp_path: Path) -> None:
    """It is opened once more; only when that hangs too the server ends, and says why."""

    async def begun(**arguments: Any) -> list[BaseException]:
        failed: list[BaseException] = []
        models = Models((spec(**arguments),), in_process=True, **HERE)
        models.start(("scripted",), failed.append)
        await until(lambda: bool(failed or models.open_models()), LONG)
        await models.close()
        return failed

    assert asyncio.run(begun(hangs=str(tmp_path / "once"))) == []
    (error,) = asyncio.run(begun(hangs=True))
    assert "showed no sign of life" in str(error)


def test_nobody_waits_for_ever_for_a_model_to_open() -> None:
    async def main() -> None:
        app = application(spec(slow_s=8.0), request_s=0.5, open_s=60.0)
        async with started(app):
            paths: list[tuple[str, Any]] = [(CHAT, user("x")), ("/v1/embeddings", {"input": "x"})]
            calls = [Call(app, path, body) for path, body in [*paths, ("/tokenize", {"content": "x"})]]
            await asyncio.wait_for(asyncio.gather(*(call.task for call in calls)), LONG)
            for call in calls:
                assert call.status == 503
                assert "is still being opened after 0.5 s" in json.loads(call.sent)["error"]["message"]

    asyncio.run(main())
