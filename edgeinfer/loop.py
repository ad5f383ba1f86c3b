"""The engine's one background thread: it steps the scheduler while there is work and sleeps while there is none."""

from __future__ import annotations

import threading

from edgeinfer.core import FinishReason
from edgeinfer.engines.base import Engine
from edgeinfer.errors import EdgeInferError, EngineError, RequestCancelled
from edgeinfer.kv import Shelf
from edgeinfer.process import Birthplace
from edgeinfer.request import EmbedRequest, Request
from edgeinfer.scheduler import Scheduler
from edgeinfer.speculate import Speculator

__all__ = ["EngineLoop"]


class EngineLoop:
    """Owns an engine, its drafters and shelf, their scheduler and the thread that all run on. All methods may be called
    from any thread."""

    def __init__(
        self,
        engine: Engine,
        speculator: Speculator | None = None,
        *,
        n_parallel: int | None = None,
        shelf: Shelf | None = None,
        name: str = "edgeinfer",
    ) -> None:
        self.birthplace = Birthplace()
        self._engine = engine
        self._speculator = speculator
        self._shelf = shelf
        self._scheduler = Scheduler(engine, speculator, n_parallel=n_parallel, shelf=shelf)
        self._wake = threading.Condition()
        if shelf is not None:
            shelf.wakes(self._stir)
        self._closing = False
        self._broken: EdgeInferError | None = None
        # A daemon, because a program that forgets to close must still be able to end; `LLM` closes it at exit.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, request: Request | EmbedRequest) -> None:
        """Queue a request. Raises `RequestCancelled` when the loop is closed, `EngineError` when it has broken down or
        belongs to another process."""
        self.birthplace.check()
        with self._wake:
            if self._broken:
                raise EngineError(f"the engine has stopped after an error: {self._broken}")
            if self._closing:
                raise RequestCancelled("the model is closed")
            self._scheduler.submit(request)
            self._wake.notify()

    def cancel(self, request: Request | EmbedRequest, reason: FinishReason = "cancelled") -> None:
        """End a request now; its sink is told by the engine's thread."""
        if not self.birthplace.is_here:  # also called from finalizers, which a forked child inherits
            return
        self._scheduler.cancel(request, reason)
        self._stir()

    def _stir(self) -> None:
        with self._wake:
            self._wake.notify()

    def forget(self) -> None:
        """Drop the KV of everything that has ended, before the next request is admitted."""
        self._scheduler.forget()

    def close(self) -> None:
        """Stop, tell everybody who waits, save what is worth it, free the engine. Blocks until the thread has ended;
        closing twice is harmless. Nothing happens in a forked child: the engine is its parent's."""
        if not self.birthplace.is_here:
            return
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._scheduler.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def load(self) -> tuple[int, int]:
        """(requests running, requests waiting)"""
        return self._scheduler.n_running, self._scheduler.n_waiting

    @property
    def pulse(self) -> tuple[int, int]:
        """(steps that have ended, tokens of the pass under way): who finds the same again and again while somebody
        waits has found a step that hangs."""
        return self._scheduler.n_steps, self._scheduler.n_computing

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                if self._scheduler.idle:
                    self._scheduler.rest()
                else:
                    self._scheduler.step()
        except BaseException as error:  # a bug in the loop must reach whoever waits, not hang them
            self._broken = (
                error if isinstance(error, EdgeInferError) else EngineError(f"{type(error).__name__}: {error}")
            )
            self._scheduler.fail_all(self._broken)
            if not isinstance(error, Exception):
                raise
        else:
            self._scheduler.fail_all(RequestCancelled("the model was closed"))
            self._scheduler.save_all()
        finally:
            if self._speculator is not None:
                self._speculator.close()
            self._engine.close()
            if self._shelf is not None:
                self._shelf.close()

    def _wait_for_work(self) -> bool:
        """True when there is a step to take, False when it is time to end."""
        with self._wake:
            while self._scheduler.idle and not self._closing and not self._scheduler.restless:
                self._wake.wait()
            return not self._closing
