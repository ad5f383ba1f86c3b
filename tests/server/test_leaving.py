"""Clients that leave give their place back at once, wherever their request is, and disturb nobody; clients that are too
many are told so at once."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from serving import Call, application, events, spec, started, until, user

from edgeinfer.llm import LLM
from edgeinfer.server.workers.models import Models

CHAT = "/v1/chat/completions"
N = 100


def llm_of(models: Models) -> LLM:
    """The LLM behind the server, to see what it does at this very moment."""
    transport: Any = models.open_models()["scripted"]._transport
    llm: LLM = transport._worker._llm
    return llm


async def loaded(app: Any, models: Models) -> LLM:
    call = Call(app, CHAT, user("hi"))
    await asyncio.wait_for(call.task, 30)
    assert call.status == 200
    return llm_of(models)


def said(call: Call) -> str:
    """The text of a finished stream."""
    found = events(call.sent.decode())
    assert found[-1] == (None, "[DONE]")
    chunks = [data["choices"][0] for _, data in found[:-1]]
    assert chunks[-1]["finish_reason"] == "stop"
    return "".join(chunk["delta"].get("content") or "" for chunk in chunks)


def numbers(n: int) -> str:
    return " ".join(str(i) for i in range(n))


def near(times: list[float]) -> None:
    """At the 99th percentile within a second; a step takes a few milliseconds here."""
    assert sorted(times)[int(0.99 * len(times)) - 1] < 1.0, sorted(times)[-5:]


def test_leaving_the_queue() -> None:
    async def main() -> None:
        app = application(spec(n_parallel=2, step_s=0.001), n_queue=2 * N)
        async with started(app) as models:
            llm = await loaded(app, models)
            steady = [Call(app, CHAT, user("count 400", stream=True)) for _ in range(2)]
            await until(lambda: llm.load == (2, 0))
            waiting = [Call(app, CHAT, user(f"count {i}", stream=i % 2 == 0)) for i in range(N)]
            await until(lambda: llm.load == (2, N))
            times = []
            for i, call in enumerate(waiting):
                begin = time.monotonic()
                await call.leave()
                await until(lambda i=i: llm.load[1] == N - 1 - i)  # type: ignore[misc]
                times.append(time.monotonic() - begin)
            near(times)
            await asyncio.wait_for(asyncio.gather(*(call.task for call in steady)), 60)
            assert [said(call) for call in steady] == [numbers(400)] * 2
            assert models._slots["scripted"].n_users == 0
            assert models.open_models()["scripted"].n_asked == 0

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", ["prefill", "stream"])
def test_leaving_while_it_is_computed(phase: str, stream: bool) -> None:
    async def main() -> None:
        app = application(spec(n_parallel=2, step_s=0.0005))
        async with started(app) as models:
            llm = await loaded(app, models)
            steady = Call(app, CHAT, user("count 250", stream=True))
            await until(lambda: llm.load == (1, 0))
            times = []
            for i in range(N // 2):
                if steady.task.done():
                    assert said(steady) == numbers(250)
                    steady = Call(app, CHAT, user("count 250", stream=True))
                    await until(lambda: llm.load == (1, 0))
                text = f"{i} " + "x" * 3500 if phase == "prefill" else "count 3000"
                call = Call(app, CHAT, user(text, stream=stream))
                await until(lambda task=steady.task: llm.load == (2, 0) or task.done())  # type: ignore[misc]
                if phase == "stream" and stream:
                    await until(lambda call=call: b"content" in call.sent)  # type: ignore[misc]
                begin = time.monotonic()
                await call.leave()
                await until(lambda: llm.load[0] <= 1)
                times.append(time.monotonic() - begin)
            near(times)
            await asyncio.wait_for(steady.task, 60)
            assert said(steady) == numbers(250)
            assert models._slots["scripted"].n_users == 0

    asyncio.run(main())


def test_leaving_while_a_model_is_opened() -> None:
    async def main() -> None:
        app = application(spec(slow_s=0.5))
        async with started(app) as models:
            call = Call(app, CHAT, user("hi"))
            await until(lambda: models.state("scripted") == "loading")
            await call.leave()
            assert models._slots["scripted"].n_users == 0
            await loaded(app, models)  # it was opened nevertheless

    asyncio.run(main())


def test_too_many_are_told_at_once() -> None:
    async def main() -> None:
        app = application(spec(n_parallel=2, step_s=0.003), n_queue=3)
        async with started(app) as models:
            await loaded(app, models)
            calls = [Call(app, CHAT, user("count 60")) for _ in range(20)]
            begin = time.monotonic()
            await until(lambda: sum(call.task.done() for call in calls) >= 15)
            assert time.monotonic() - begin < 2
            refused = [call for call in calls if call.status == 429]
            assert len(refused) == 15
            for call in refused:
                assert json.loads(call.sent)["error"]["code"] == "queue_full"
            await asyncio.wait_for(asyncio.gather(*(call.task for call in calls)), 60)
            answered = [call for call in calls if call.status == 200]
            assert len(answered) == 5
            texts = {json.loads(call.sent)["choices"][0]["message"]["content"] for call in answered}
            assert texts == {numbers(60)}
            several = Call(app, CHAT, user("x", n=6))
            await asyncio.wait_for(several.task, 20)
            assert several.status == 429  # six at once are more than two places and a queue of three

    asyncio.run(main())


def test_a_refusal_says_when_to_come_back() -> None:
    async def main() -> None:
        app = application(spec(n_parallel=1, step_s=0.003), n_queue=0)
        async with started(app) as models:
            llm = await loaded(app, models)
            first = Call(app, CHAT, user("count 100"))
            await until(lambda: llm.load == (1, 0))
            second = Call(app, CHAT, user("hi"))
            await asyncio.wait_for(second.task, 20)
            assert 1 <= int(second.headers[b"retry-after"]) <= 60
            await first.leave()

    asyncio.run(main())


def test_hundreds_of_requests_each_have_one_outcome() -> None:
    """Every answer is the one that the request alone would have got."""

    async def client(app: Any, i: int) -> list[int]:
        statuses = []
        for j in range(4):
            text = f"question {i} {j} " + "y" * (i % 50)
            call = Call(app, CHAT, user(text))
            await asyncio.wait_for(call.task, 120)
            statuses.append(call.status)
            if call.status == 200:
                assert json.loads(call.sent)["choices"][0]["message"]["content"] == f"You said: {text}"
        return statuses

    async def main() -> None:
        app = application(spec(n_parallel=8), n_queue=40)
        async with started(app):
            found = await asyncio.gather(*(client(app, i) for i in range(64)))
            statuses = [status for each in found for status in each]
            assert len(statuses) == 256
            assert set(statuses) <= {200, 429}
            assert statuses.count(200) >= 48

    asyncio.run(main())
