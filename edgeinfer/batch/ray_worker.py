"""What runs on the machines of a cluster: a model that computes rows, and the actor that hands rows on. Rows and
results travel as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from edgeinfer.batch.compute import LocalComputer, Outcome
from edgeinfer.batch.places import places
from edgeinfer.batch.rows import Computed, Row
from edgeinfer.core import Grammar
from edgeinfer.engines import EngineConfig
from edgeinfer.errors import EdgeInferError, EngineError, TemplateError, UsageError
from edgeinfer.llm import LLM
from edgeinfer.opening import found

__all__ = ["Feeder", "Worker", "decoded", "encoded", "facts_key", "open_model"]

_MOST_DEATHS = 2


# ---- rows and results as text


def encoded(row: Row) -> str:
    """A row as JSON, without what only its result line needs."""
    return json.dumps(dataclasses.asdict(dataclasses.replace(row, metadata=None)))


def decoded(text: str) -> Row:
    row = json.loads(text)
    options = row["options"]
    if options.get("grammar") is not None:
        options["grammar"] = Grammar(**options["grammar"])
    if "logit_bias" in options:
        options["logit_bias"] = {int(token_id): bias for token_id, bias in options["logit_bias"].items()}
    row["texts"], row["names"] = tuple(row["texts"]), tuple(row["names"])
    return Row(**row)


def facts_key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


# ---- in the cluster


def open_model(model: str, n_places: int, *, fixed: bool = False, **arguments: Any) -> LLM:
    """A worker's model, which computes ``n_places`` rows at once, or as many as its machine has memory for unless that
    is ``fixed``. ``arguments``: of `LLM`. A model that is not there is fetched."""
    if not fixed:
        config = EngineConfig(
            n_ctx=arguments.get("n_ctx") or 0,
            kv_type="q8_0" if arguments.get("kv_type") == "q8_0" else "f16",
            kernels=arguments.get("kernels", True),
        )
        n_places = min(n_places, places(found(model, "auto").path, config, arguments.get("memory"), "auto"))
    return LLM(model, n_parallel=n_places, **arguments)


class Feeder:
    """Where the read task takes rows from, and where workers say what they begin: an actor beside the job.
    Asynchronous, so that waiting for rows keeps nobody from bringing some."""

    def __init__(self) -> None:
        import asyncio

        self._rows: asyncio.Queue[str | None] = asyncio.Queue()
        self._begun: dict[str, tuple[int, str]] = {}

    async def put(self, row: str | None) -> None:
        """None: nothing comes any more."""
        self._rows.put_nowait(row)

    async def take(self) -> str | None:
        return await self._rows.get()

    async def begins(self, name: str, node: str, *, again: bool = False) -> int:
        """A worker on this machine wants to begin the row; returns how often somebody has begun it and not ended. Only
        a first beginning counts, unless it is to be ``again``."""
        n = self._begun.get(name, (0, ""))[0]
        if n == 0 or again:
            self._begun[name] = (n + 1, node)
        return n

    async def ends(self, name: str) -> None:
        self._begun.pop(name, None)

    async def begun(self, alive: Sequence[str]) -> set[str]:
        """Rows under way on these machines; those on others are forgotten, for they did not die of their rows."""
        self._begun = {name: entry for name, entry in self._begun.items() if entry[1] in alive}
        return set(self._begun)


class Worker:
    """A model on some machine, opened once; called from as many threads as it has rows at once. ``opener``:
    ``module:function`` that opens it, called with ``arguments``. What keeps it from opening is told to whoever asks it
    for rows: Ray would only say that a worker has died, and start it again."""

    def __init__(self, opener: str, arguments: Mapping[str, Any], feeder: Any) -> None:
        import ray

        self._feeder = feeder
        self._node = ray.get_runtime_context().get_node_id()
        self._suspects = threading.Lock()
        self._error: str | None = None
        try:
            module, _, name = opener.partition(":")
            self._llm = getattr(importlib.import_module(module), name)(**arguments)
            self._facts = LocalComputer(self._llm).facts()
            self._key = facts_key(self._facts)
        except EdgeInferError as error:
            self._error = str(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        return {"result": [json.dumps(self._result(str(text))) for text in batch["row"]]}

    def _result(self, text: str) -> dict[str, Any]:
        if self._error is not None:
            return {"ends": f"a worker cannot open the model: {self._error}"}
        if text == "":
            return {"facts": self._facts}
        row = decoded(text)
        return {"name": row.name, "facts_key": self._key, **self._counted(row)}

    def _counted(self, row: Row) -> dict[str, Any]:
        """The row's result. Of rows that were under way when a worker died, one at a time is begun again, until the
        one is known that workers die of."""
        import ray

        begins = self._feeder.begins.remote
        suspect = ray.get(begins(row.name, self._node)) > 0
        with self._suspects if suspect else contextlib.nullcontext():
            n_deaths = ray.get(begins(row.name, self._node, again=True)) if suspect else 0
            try:
                if n_deaths >= _MOST_DEATHS:
                    return {"fault": f"its worker has died {n_deaths} times while it was computed"}
                return self._computed(row)
            finally:
                self._feeder.ends.remote(row.name)

    def _computed(self, row: Row) -> dict[str, Any]:
        computer = LocalComputer(self._llm)
        try:
            computer.submit(row)
            while (ended := computer.next(60.0)) is None:
                pass
            outcome: Outcome = ended[1]
        except EdgeInferError as error:
            if not isinstance(error, (UsageError, TemplateError)):
                return {"ends": str(error)}
            outcome = error
        except Exception as bug:  # which one row brings out
            outcome = EngineError(f"{type(bug).__name__}: {bug}")
        finally:
            computer.cancel()
        if isinstance(outcome, Computed):
            return {"body": outcome.body, "stats": dataclasses.asdict(outcome.stats)}
        return {"bad" if isinstance(outcome, (UsageError, TemplateError)) else "fault": str(outcome)}
