"""Several models by name: opened when asked for, within a budget, closed when idle."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from serving import Call, application, spec, started, until, user

from edgeinfer import catalog
from edgeinfer.errors import ModelNotFound
from edgeinfer.server.guard import Guard
from edgeinfer.server.workers.models import Models

CHAT = "/v1/chat/completions"


async def ask(app: Guard, model: str | None = None, text: str = "hi") -> tuple[int, Any]:
    call = Call(app, CHAT, user(text, **({"model": model} if model else {})))
    await asyncio.wait_for(call.task, 60)
    return call.status, json.loads(call.sent)


def test_the_first_is_the_default() -> None:
    async def main() -> None:
        app = application(spec("one"), spec("two"))
        async with started(app) as models:
            assert (await ask(app))[1]["model"] == "one"
            assert set(models.open_models()) == {"one"}
            assert (await ask(app, "two"))[1]["model"] == "two"
            assert (await ask(app, "three"))[0] == 404
            assert set(models.open_models()) == {"one", "two"}

    asyncio.run(main())


def test_one_makes_room_for_another() -> None:
    async def main() -> None:
        app = application(spec("one", needs=600), spec("two", needs=600), spec("big", needs=5000), memory_bytes=1000)
        async with started(app) as models:
            for name in ("one", "two", "one"):
                assert (await ask(app, name))[0] == 200
                assert set(models.open_models()) == {name}
            status, found = await ask(app, "big")
            assert (status, found["error"]["code"]) == (503, "insufficient_memory")
            assert (await ask(app, "two"))[0] == 200

    asyncio.run(main())


def test_one_that_is_busy_is_waited_for() -> None:
    async def main() -> None:
        app = application(spec("one", needs=600, step_s=0.002), spec("two", needs=600), memory_bytes=1000)
        async with started(app) as models:
            await ask(app, "one")
            busy = asyncio.ensure_future(ask(app, "one", "count 60"))
            await until(lambda: models._slots["one"].n_users == 1)
            status, found = await ask(app, "two")
            assert (status, found["model"]) == (200, "two")
            assert busy.done()
            assert busy.result()[0] == 200

    asyncio.run(main())


def test_idle_ones_are_closed() -> None:
    async def main() -> None:
        app = application(spec("one"), spec("two", step_s=0.002), idle_s=0.3)
        async with started(app) as models:
            await ask(app, "one")
            await ask(app, "two", "count 100")  # longer than the other may be idle, but it is not idle itself
            await until(lambda: not models.open_models())
            assert (await ask(app, "one"))[0] == 200

    asyncio.run(main())


def test_asked_by_many_it_is_opened_once() -> None:
    async def main() -> None:
        said: list[str] = []
        app = application(spec("one", slow_s=0.2), said=said.append)
        async with started(app):
            answers = await asyncio.gather(*(ask(app, text=str(i)) for i in range(10)))
            assert {status for status, _ in answers} == {200}
        assert said.count("loading one") == 1
        assert "one: opening" in said

    asyncio.run(main())


def test_one_that_cannot_be_opened() -> None:
    async def main() -> None:
        app = application(spec("one", broken=True), spec("two"))
        async with started(app) as models:
            status, found = await ask(app, "one")
            assert (status, found["error"]["message"]) == (503, "this model is damaged")
            assert models.state("one") == "unloaded"
            assert (await ask(app, "two"))[0] == 200

    asyncio.run(main())


def test_preloading() -> None:
    async def main() -> None:
        models = Models((spec("one"), spec("two")), in_process=True)
        models.start(("one",))
        await until(lambda: set(models.open_models()) == {"one"})
        await models.close()
        assert models.open_models() == {}

    asyncio.run(main())


def test_names_are_those_given_and_those_of_the_catalogue_that_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEINFER_MODELS", str(tmp_path))
    models = Models((spec("mine"),), others={"n_ctx": 512})
    assert list(models.specs()) == ["mine"]
    card = catalog.cards()["smollm2-135m"]
    with (tmp_path / card.file).open("wb") as stream:
        stream.truncate(card.bytes)
    assert list(models.specs()) == ["mine", "smollm2-135m"]
    assert models.find("smollm2-135m").arguments == {"n_ctx": 512, "model": "smollm2-135m"}
    assert models.find(None).name == "mine"
    for name in (str(tmp_path / card.file), card.file, "hf:a/b", "", "Mine", "mine\0", "../mine"):
        with pytest.raises(ModelNotFound, match="mine, smollm2-135m"):
            models.find(name)
    assert list(Models((spec("mine"),)).specs()) == ["mine"]
