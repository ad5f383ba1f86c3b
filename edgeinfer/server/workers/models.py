"""The models that a server has, by name: opened when first asked for, within a budget of memory, closed when idle,
restarted when one hangs or dies. Lives on the server's event loop; knows no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeinfer import catalog
from edgeinfer.errors import EdgeInferError, EngineError, InsufficientMemory, ModelNotFound
from edgeinfer.server.waiting import in_time
from edgeinfer.server.workers.model import Model
from edgeinfer.server.workers.transport import ChildProcess, Received, SameProcess, Transport
from edgeinfer.server.workers.worker import OPENER

__all__ = ["ModelSpec", "ModelState", "Models", "Overloaded"]

_LOG = logging.getLogger("edgeinfer.server")
_TICK_S = 0.25
_MOST_PATIENCE = 64.0
_MOST_WAIT_S = 60.0

ModelState = Literal["unloaded", "loading", "ready", "stalled", "restarting", "failed"]


class Overloaded(Exception):
    """Too many wait already; worth another try in ``retry_s`` seconds."""

    def __init__(self, retry_s: float) -> None:
        super().__init__("too many requests wait")
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How a model is opened: ``arguments`` of its ``opener`` (JSON values; ``model`` is the name or path), or of
    `edgeinfer.LLM` where that is the default one."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    opener: str = OPENER


@dataclass(slots=True)
class _Slot:
    """A model that is open or being opened. ``n_users`` requests hold it; ``mean_s`` is how long one takes.
    ``patience`` stretches the time after which a step counts as hanging: where none has ever ended, it may only be
    slow."""

    spec: ModelSpec
    opening: asyncio.Task[Model]
    model: Model | None = None
    restarting: bool = False
    n_users: int = 0
    last_used: float = 0.0
    mean_s: float = 1.0
    patience: float = 1.0


class Models:
    """``specs``: the models named on the command line, the first of which is the default. ``others``: arguments for
    those of the catalogue that are on this machine (None: they are not served). ``in_process``: models live in this
    process, where a hanging engine cannot be ended."""

    def __init__(
        self,
        specs: tuple[ModelSpec, ...] = (),
        *,
        others: Mapping[str, Any] | None = None,
        memory_bytes: int | None = None,
        idle_s: float = 0.0,
        stalled_s: float = 4.0,
        hang_s: float = 10.0,
        open_s: float = 60.0,
        in_process: bool = False,
        said: Callable[[str], None] = _LOG.info,
    ) -> None:
        self._named = {spec.name: spec for spec in specs}
        self._others = others
        self._memory_bytes = memory_bytes
        self._idle_s, self._stalled_s, self._hang_s = idle_s, stalled_s, hang_s
        self._open_s = open_s
        self._in_process = in_process
        self._said = said
        self._slots: dict[str, _Slot] = {}
        self._failed: dict[str, str] = {}
        self._one_opens = asyncio.Lock()
        self._opening: Model | None = None
        self._somebody_left = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.n_restarts: dict[str, int] = {}

    # ---- names

    def specs(self) -> dict[str, ModelSpec]:
        """Every model that can be asked for now."""
        found = dict(self._named)
        if self._others is not None:
            for name in catalog.cards():
                with contextlib.suppress(EdgeInferError, OSError):
                    if name not in found and catalog.resolve(name):
                        found[name] = ModelSpec(name, {**self._others, "model": name})
        return found

    def find(self, name: str | None) -> ModelSpec:
        """By exact name alone: what a client sends is never a path or an address. None finds the default."""
        specs = self.specs()
        if name is None and specs:
            return next(iter(specs.values()))
        if name not in specs:
            there = ", ".join(sorted(specs)) or "none"
            raise ModelNotFound(f"no model {str(name)[:80]!r} is served here; there are: {there}")
        return specs[name]

    def open_models(self) -> dict[str, Model]:
        """Those that are open now."""
        return {name: slot.model for name, slot in self._slots.items() if slot.model is not None and slot.model.alive}

    def state(self, name: str) -> ModelState:
        slot = self._slots.get(name)
        if slot is None:
            return "failed" if name in self._failed else "unloaded"
        if slot.model is None:
            if slot.restarting:
                return "restarting"
            return "stalled" if self._silent_s(slot) > self._open_s / 2 else "loading"
        return "stalled" if slot.model.stalled_s() > self._stalled_s else "ready"

    def trouble(self) -> dict[str, ModelState]:
        """The models that do not answer as they should."""
        states = {name: self.state(name) for name in {*self._slots, *self._failed}}
        return {name: state for name, state in states.items() if state in ("stalled", "restarting", "failed")}

    def _silent_s(self, slot: _Slot) -> float:
        """Seconds without a sign of life from a model that is being opened."""
        opening = self._opening
        return opening.silent_s() if opening is not None and opening.name == slot.spec.name else 0.0

    # ---- using

    @contextlib.asynccontextmanager
    async def use(self, name: str | None, n_places: int = 1, n_queue: int = 1 << 30) -> AsyncIterator[Model]:
        """Hold a model, opening it first where it is not. ``n_places`` are what the request takes; with more than
        ``n_queue`` waiting beside those that are computed it is refused at once. Raises `Overloaded`, `ModelNotFound`
        and what opening raises."""
        spec = self.find(name)
        slot = self._slots.get(spec.name) or self._open(spec)
        n_parallel = slot.model.facts.n_parallel if slot.model else 1
        if slot.n_users + n_places > n_parallel + n_queue:
            raise Overloaded(slot.mean_s * (slot.n_users - n_queue / 2) / n_parallel)
        slot.n_users += n_places
        begin = time.monotonic()
        try:
            yield await asyncio.shield(slot.opening)
        finally:
            slot.n_users -= n_places
            slot.last_used = time.monotonic()
            slot.mean_s += (slot.last_used - begin - slot.mean_s) / 8
            self._somebody_left.set()

    def _open(self, spec: ModelSpec, patience: float = 1.0, restarting: bool = False) -> _Slot:
        slot = _Slot(spec, self._spawn(self._opened(spec)), restarting=restarting, patience=patience)
        slot.last_used = time.monotonic()
        self._slots[spec.name] = slot
        slot.opening.add_done_callback(lambda task: self._was_opened(slot, task))
        return slot

    def _was_opened(self, slot: _Slot, task: asyncio.Task[Model]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            slot.model = task.result()
            self._failed.pop(slot.spec.name, None)
            return
        if self._slots.get(slot.spec.name) is slot:
            del self._slots[slot.spec.name]
        if slot.restarting and error is not None:
            self._failed[slot.spec.name] = str(error)
            self._said(f"{slot.spec.name} could not be restarted: {error}")

    async def _opened(self, spec: ModelSpec) -> Model:
        """Open it, closing idle ones while memory is short."""
        async with self._one_opens:
            while True:
                try:
                    return await self._try(spec)
                except InsufficientMemory:
                    if not await self._make_room():
                        raise

    async def _try(self, spec: ModelSpec) -> Model:
        arguments = dict(spec.arguments)
        if self._memory_bytes is not None:
            left = self._memory_bytes - sum(_bytes_of(model) for model in self.open_models().values())
            if left <= 0:
                raise InsufficientMemory(f"--memory leaves nothing for {spec.name} beside the models that are open")
            arguments["memory"] = left

        def connect(received: Received) -> Transport:
            kind = SameProcess if self._in_process else ChildProcess
            return kind(spec.opener, arguments, received)

        self._said(f"loading {spec.name}")
        begin = time.monotonic()
        model = Model(
            spec.name,
            connect,
            ended=lambda: self._died(spec.name),
            said=lambda line: self._said(f"{spec.name}: {line}"),
        )
        self._opening = model
        try:
            facts = await model.ready()
        except asyncio.CancelledError:
            model.kill(EngineError(f"{spec.name} is not wanted any more"))
            raise
        finally:
            self._opening = None
        for line in facts.notices:
            self._said(f"{spec.name}: {line}")
        self._said(f"{spec.name} is ready after {time.monotonic() - begin:.1f} s")
        return model

    async def _make_room(self) -> bool:
        """Close the model that was used longest ago, or wait until one can be; false where there is none, or all are
        used without end."""
        give_up = time.monotonic() + _MOST_WAIT_S
        while True:
            known = [slot for slot in self._slots.values() if slot.model is not None]
            idle = [slot for slot in known if not slot.n_users]
            if idle:
                await self._unload(min(idle, key=lambda slot: slot.last_used), "to make room")
                return True
            if not known or time.monotonic() > give_up:
                return False
            self._somebody_left.clear()
            with contextlib.suppress(TimeoutError):
                await in_time(self._somebody_left.wait(), 1.0)

    def _unload(self, slot: _Slot, why: str) -> asyncio.Task[Any]:
        """Nobody finds it any more from now on; it is closed when the task has ended."""
        if self._slots.get(slot.spec.name) is slot:
            del self._slots[slot.spec.name]
        self._said(f"unloading {slot.spec.name} {why}")
        return self._spawn(self._closed(slot))

    @staticmethod
    async def _closed(slot: _Slot) -> None:
        if slot.model is not None:
            await slot.model.close()

    # ---- watching

    def start(
        self, preload: tuple[str, ...] = (), failed: Callable[[BaseException], None] = lambda _error: None
    ) -> None:
        """Watch from now on, and open these; ``failed`` hears of one that cannot be. On the event loop."""

        def opened(slot: _Slot, task: asyncio.Task[Model]) -> None:
            error = None if task.cancelled() else task.exception()
            again = self._slots.get(slot.spec.name, slot)
            if error is not None and again is not slot:
                follow(again)
            elif error is not None:
                failed(error)

        def follow(slot: _Slot) -> None:
            slot.opening.add_done_callback(lambda task: opened(slot, task))

        self._spawn(self._watch())
        for name in preload:
            if name not in self._slots:
                follow(self._open(self.find(name)))

    async def _watch(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            late_s, last = now - last - _TICK_S, now
            if late_s > 1:
                for model in (self._opening, *(slot.model for slot in self._slots.values())):
                    if model is not None:
                        model.forgive(late_s)
            for slot in list(self._slots.values()):
                if slot.model is None:
                    if self._silent_s(slot) > self._open_s:
                        self._give_up(slot)
                    continue
                if slot.model.stalled_s() > self._hang_s * slot.patience:
                    self._restart(slot, "a step of the engine did not end")
                elif self._idle_s and not slot.n_users and now - slot.last_used > self._idle_s:
                    self._unload(slot, f"after {self._idle_s:.0f} s without a request")

    def _give_up(self, slot: _Slot) -> None:
        """Opening does not get on: it is tried once more, and then left to whoever asks next."""
        name, opening = slot.spec.name, self._opening
        why = f"{name} showed no sign of life for {self._open_s:g} s while it was opened"
        again = not slot.restarting
        if again:
            self._restart(slot, "it hung while it was opened")
        if opening is not None:
            opening.kill(EngineError(f"{why}; {'it is tried again' if again else 'look at its files and its device'}"))

    def _died(self, name: str) -> None:
        slot = self._slots.get(name)
        if slot is not None and slot.model is not None:
            self._restart(slot, "its process has ended")

    def _restart(self, slot: _Slot, why: str) -> None:
        name = slot.spec.name
        self._said(f"{name} is restarted: {why}")
        self.n_restarts[name] = self.n_restarts.get(name, 0) + 1
        patience = slot.patience
        if slot.model is not None:
            if slot.model.alive:
                patience = max(1.0, patience / 2) if slot.model.has_stepped else min(2 * patience, _MOST_PATIENCE)
            slot.model.kill(EngineError(f"{name} is restarted: {why}; ask again"))
        self._open(slot.spec, patience, restarting=True)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Close every model in good order."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        slots, self._slots = list(self._slots.values()), {}
        await asyncio.gather(*(slot.model.close() for slot in slots if slot.model is not None))

    def kill(self) -> None:
        """Be rid of all models at once."""
        for model in (self._opening, *(slot.model for slot in self._slots.values())):
            if model is not None:
                model.kill(EngineError("the server ends"))


def _bytes_of(model: Model) -> int:
    """What a model takes: as reckoned, or more where it has grown."""
    import psutil

    n_bytes = 0
    if model.pid is not None:
        with contextlib.suppress(psutil.Error):
            n_bytes = psutil.Process(model.pid).memory_info().rss
    return max(n_bytes, model.facts.planned_bytes)
