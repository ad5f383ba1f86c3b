"""The loop: schedule -> forward -> accept, for one request or fifty. Nothing else decodes.

Each step takes one token for every decoding request and a bounded chunk of somebody's prompt. Requests join and leave
at any step, in the order in which they came. Knows nothing of text; runs on whichever single thread calls `step`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence

from edgeinfer.core import FinishReason
from edgeinfer.engines.base import Engine, ForwardCancelled, Logits, Slice
from edgeinfer.errors import EdgeInferError, EngineError, RequestCancelled
from edgeinfer.kv import SequencePool
from edgeinfer.request import EmbedRequest, Request

__all__ = ["Scheduler"]

N_PREFILL_BESIDE_DECODE = 64
"""Prompt tokens read in a step that others decode in: they wait for it, so it is short."""


class Scheduler:
    """Continuous batching over one engine.

    `submit` and `cancel` may be called from any thread; everything else from the thread that steps.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pool = SequencePool(engine)
        self._waiting: deque[Request | EmbedRequest] = deque()
        self._running: deque[Request] = deque()
        # Guards _waiting, _in_flight and the engine's interrupt flag. Re-entrant, because a dropped stream cancels
        # from `__del__`.
        self._lock = threading.RLock()
        self._in_flight: Sequence[Request | EmbedRequest] = ()
        self._stopping = False
        self._forget = False

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def n_running(self) -> int:
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def submit(self, request: Request | EmbedRequest) -> None:
        """Queue a request. Its sink hears of it exactly once more at the end: `done` or `failed`."""
        with self._lock:
            self._waiting.append(request)

    def cancel(self, request: Request | EmbedRequest, reason: FinishReason = "cancelled") -> None:
        """End a request at once, wherever it is; harmless when it has ended."""
        with self._lock:
            request.cancelled = request.cancelled or reason
            # One decode step of many is over sooner than it could be repeated for the others.
            if request in self._in_flight and (len(self._in_flight) == 1 or _is_reading(request)):
                self._engine.interrupt(True)

    def stop(self) -> None:
        """Let no further forward pass begin, and end one that runs. For good; may be called from any thread."""
        with self._lock:
            self._stopping = True
            self._engine.interrupt(True)

    def step(self) -> None:
        """Advance everybody: at most one forward pass."""
        self._drop_cancelled()
        self._admit()
        plan = self._schedule()
        if not plan:
            return
        rows = self._forward(plan)
        if rows is not None:
            self._accept(plan, rows)
        self._drop_cancelled()

    def fail_all(self, error: EdgeInferError) -> None:
        """Tell everybody that nothing will follow; used when the loop ends."""
        with self._lock:
            waiting, running = list(self._waiting), list(self._running)
            self._waiting.clear()
        for started in running:
            self._leave(started)
        for request in (*running, *waiting):
            request.sink.failed(error)

    def forget(self) -> None:
        """Drop the KV of everything that has ended, before anything else is admitted. May be called from any thread."""
        self._forget = True

    # ---- schedule

    def _admit(self) -> None:
        if self._forget:
            self._forget = False
            self._pool.forget()
        while self._waiting:
            request = self._waiting[0]
            if isinstance(request, EmbedRequest):
                if not self._embed(request):
                    return
            else:
                lease = self._pool.acquire(request.tokens, request.n_limit)
                if lease is None:
                    return
                request.start(lease)
                self._running.append(request)
            with self._lock:
                self._waiting.remove(request)

    def _schedule(self) -> list[tuple[Request, Slice]]:
        """Decoding requests first, then the prompt whose turn it is, then what fits of the others."""
        decoding: list[Request] = []
        reading: list[Request] = []
        for request in self._running:
            (decoding if request.n_pending == 1 else reading).append(request)
        room = self._engine.n_batch
        plan = [(request, self._slice(request, 1)) for request in decoding[:room]]
        if len(plan) < len(decoding):  # more requests than a pass has room for: those left out come first next time
            self._running.rotate(-len(plan))
        room = min(room - len(plan), N_PREFILL_BESIDE_DECODE) if plan else room
        for request in reading:
            part = self._slice(request, room)
            if len(part.token_ids):
                plan.append((request, part))
                room -= len(part.token_ids)
        if len(reading) > 1:  # prompts take turns
            self._running.remove(reading[0])
            self._running.append(reading[0])
        return plan

    def _slice(self, request: Request, n_max: int) -> Slice:
        if request.lease is None:
            raise EngineError("a request without a sequence was scheduled")
        end = min(request.n_past + n_max, request.n_tokens)
        if end < request.n_tokens:  # a prompt is cut only where the engine's rounding does not notice
            end = max(request.n_past, end // self._engine.block_size * self._engine.block_size)
        n_logits = int(end == request.n_tokens)
        return Slice(request.lease.seq, request.tokens[request.n_past : end], request.n_past, n_logits)

    # ---- forward

    def _forward(self, plan: Sequence[tuple[Request, Slice]]) -> Logits | None:
        """The wanted logits; None when somebody was cancelled or the engine failed, after which sequences may be
        shorter."""
        if not self._take_off([request for request, _ in plan]):
            return None
        try:
            rows = self._engine.forward([part for _, part in plan])
        except ForwardCancelled:
            self._reread(plan)
            return None
        except EdgeInferError as error:
            self._reread(plan)
            for request, _ in plan:
                self._leave(request)
                request.sink.failed(error)
            return None
        finally:
            self._land()
        for request, part in plan:
            request.n_past += len(part.token_ids)
        return rows

    def _take_off(self, requests: Sequence[Request | EmbedRequest]) -> bool:
        with self._lock:
            if self._stopping or any(request.cancelled for request in requests):
                return False
            self._in_flight = requests
            self._engine.interrupt(False)
            return True

    def _land(self) -> None:
        with self._lock:
            self._in_flight = ()

    def _reread(self, plan: Iterable[tuple[Request, Slice]]) -> None:
        for request, part in plan:
            request.n_past = self._engine.length(part.seq)

    def _embed(self, request: EmbedRequest) -> bool:
        """Run an embedding in a pass of its own; False when no sequence is free for it now."""
        lease = self._pool.acquire(request.token_ids[:1], len(request.token_ids))
        if lease is None:
            return False
        try:
            if self._take_off([request]):
                request.sink.embedded(self._engine.embed(lease.seq, request.token_ids))
            else:
                request.sink.failed(RequestCancelled("the request was cancelled"))
        except ForwardCancelled:
            request.sink.failed(RequestCancelled("the request was cancelled"))
        except EdgeInferError as error:
            request.sink.failed(error)
        finally:
            self._land()
            self._pool.give_back(lease, request.token_ids[:0])
        return True

    # ---- accept

    def _accept(self, plan: Sequence[tuple[Request, Slice]], rows: Logits) -> None:
        row = 0
        for request, part in plan:
            if not part.n_logits:
                continue
            try:
                reason = None if request.cancelled else request.accept(request.sampler.sample(rows[row]))
            except EdgeInferError as error:
                self._leave(request)
                request.sink.failed(error)
            else:
                if reason:
                    self._finish(request, reason)
            row += part.n_logits

    def _finish(self, request: Request, reason: FinishReason) -> None:
        stats = request.stats()
        self._leave(request)
        request.sink.done(reason, stats)

    def _leave(self, request: Request) -> None:
        self._running.remove(request)
        if request.lease is not None:
            self._pool.give_back(request.lease, request.tokens)

    def _drop_cancelled(self) -> None:
        with self._lock:
            dropped = [request for request in self._waiting if request.cancelled]
            for request in dropped:
                self._waiting.remove(request)
        for request in dropped:
            if isinstance(request, Request):
                request.sink.done(request.cancelled or "cancelled", request.stats())
            else:
                request.sink.failed(RequestCancelled("the request was cancelled"))
        for running in [request for request in self._running if request.cancelled]:
            self._finish(running, running.cancelled or "cancelled")


def _is_reading(request: Request | EmbedRequest) -> bool:
    return isinstance(request, EmbedRequest) or request.n_pending > 1
