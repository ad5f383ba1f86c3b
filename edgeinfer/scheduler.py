"""The loop: schedule -> forward -> accept, for one request or fifty. Nothing else decodes.

Each step takes one token for every decoding request, with what a drafter guesses to follow it, and a bounded chunk of
somebody's prompt. Of a draft only what the request's own sampler would have chosen is kept: an answer is the same with
drafts and without, whoever drafts. Requests join and leave at any step, in the order in which they came. Knows nothing
of text; runs on whichever single thread calls `step`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeinfer.core import FinishReason
from edgeinfer.engines.base import Engine, ForwardCancelled, Logits, Slice
from edgeinfer.errors import EdgeInferError, EngineError, RequestCancelled
from edgeinfer.kv import SequencePool, Shelf
from edgeinfer.line import WaitingLine
from edgeinfer.request import EmbedRequest, Request
from edgeinfer.speculate import Checked, Speculator, Want

__all__ = ["Scheduler"]

N_PREFILL_BESIDE_DECODE = 64
"""Prompt tokens read in a step that others decode in: they wait for it, so it is short."""


@dataclass(slots=True)
class _Part:
    """A request's share of a step. The last ``n_drafted`` tokens of the slice are a draft, of which ``n_right`` turned
    out to be the request's own choice."""

    request: Request
    slice: Slice
    n_drafted: int = 0
    n_right: int = 0


Plan = Sequence[_Part]


class Scheduler:
    """Continuous batching over one engine, ``n_parallel`` requests at once (default: as many as it has sequences; what
    it has more is for what has ended), with drafts where a speculator is given, and with saved states where a shelf is.

    `submit` and `cancel` may be called from any thread; everything else from the thread that steps. Who watches for a
    step that never ends looks at ``n_steps``, those that have ended, and ``n_computing``, the tokens of the pass under
    way.
    """

    def __init__(
        self,
        engine: Engine,
        speculator: Speculator | None = None,
        *,
        n_parallel: int | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self._engine = engine
        self._speculator = speculator
        self._shelf = shelf
        self._pool = SequencePool(engine, n_parallel, shelf)
        self._waiting = WaitingLine()
        self.n_prefilled = self.n_steps = self.n_computing = 0
        self._running: deque[Request] = deque()
        # Guards _in_flight and the engine's interrupt flag. Re-entrant, because a dropped stream cancels
        # from `__del__`.
        self._lock = threading.RLock()
        self._in_flight: Sequence[Request | EmbedRequest] = ()
        self._drafting = False
        self._stopping = False
        self._forget = False

    @property
    def idle(self) -> bool:
        return not len(self._waiting) and not self._running

    @property
    def restless(self) -> bool:
        """Whether there is something to save while nobody is served; `rest` does it. On the thread that steps."""
        return not self._stopping and self._pool.restless

    @property
    def n_running(self) -> int:
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def submit(self, request: Request | EmbedRequest) -> None:
        """Queue a request. Its sink hears of it exactly once more at the end: `done` or `failed`."""
        self._waiting.add(request)

    def cancel(self, request: Request | EmbedRequest, reason: FinishReason = "cancelled") -> None:
        """End a request at once, wherever it is; harmless when it has ended."""
        with self._lock:
            request.cancelled = request.cancelled or reason
            # One decode step of many is over sooner than it could be repeated for the others; a draft is only a guess.
            if request in self._in_flight and (len(self._in_flight) == 1 or self._drafting or _is_reading(request)):
                self._interrupt(True)

    def stop(self) -> None:
        """Let no further forward pass begin, and end one that runs. For good; may be called from any thread."""
        with self._lock:
            self._stopping = True
            self._interrupt(True)

    def _interrupt(self, on: bool) -> None:
        self._engine.interrupt(on)
        if self._speculator is not None:
            self._speculator.interrupt(on)

    def step(self) -> None:
        """Advance everybody: at most one forward pass."""
        try:
            self._step()
        finally:
            self.n_steps += 1

    def _step(self) -> None:
        self._drop_cancelled()
        self._admit()
        plan = self._schedule()
        if not plan:
            return
        begin = time.perf_counter()
        rows = self._forward(plan)
        if rows is not None:
            self._accept(plan, rows, 1e3 * (time.perf_counter() - begin))
        self._drop_cancelled()

    def rest(self) -> None:
        """Save one of what has ended, while nobody is served."""
        self._pool.save_one()

    def save_all(self) -> None:
        """Save what has ended, before the engine closes."""
        self._pool.save_all()

    def fail_all(self, error: EdgeInferError) -> None:
        """Tell everybody that nothing will follow; used when the loop ends."""
        with self._lock:
            waiting, running = self._waiting.clear(), list(self._running)
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
            if self._speculator is not None:
                self._speculator.forget()
        while self._pool.has_place:
            request = self._waiting.next(self._pool.known, self._running, self._engine.block_size)
            if request is None:
                return
            if isinstance(request, EmbedRequest):
                if not self._embed(request):
                    return
            else:
                lease = self._pool.acquire(request.tokens, request.n_limit)
                if lease is None:
                    return
                request.start(lease)
                self._running.append(request)
            self._waiting.admitted(request)

    def _schedule(self) -> list[_Part]:
        """Decoding requests first, then the prompt whose turn it is, then what fits of the others; drafts in the room
        that is left."""
        decoding: list[Request] = []
        reading: list[Request] = []
        for request in self._running:
            (decoding if request.n_pending == 1 else reading).append(request)
        room = self._engine.n_batch
        plan = [_Part(request, self._slice(request, 1)) for request in decoding[:room]]
        n_decoding = len(plan)
        if n_decoding < len(decoding):  # more requests than a pass has room for: those left out come first next time
            self._running.rotate(-n_decoding)
        room = min(room - n_decoding, N_PREFILL_BESIDE_DECODE) if plan else room
        for request in reading:
            part = self._slice(request, room)
            if len(part.token_ids):
                plan.append(_Part(request, part))
                room -= len(part.token_ids)
        if len(reading) > 1:  # prompts take turns
            self._running.remove(reading[0])
            self._running.append(reading[0])
        if self._speculator is not None and n_decoding:
            self._draft(self._speculator, plan, n_decoding)
        return plan

    def _slice(self, request: Request, n_max: int) -> Slice:
        if request.lease is None:
            raise EngineError("a request without a sequence was scheduled")
        end = min(request.n_past + n_max, request.n_tokens)
        if end < request.n_tokens:  # a prompt is cut only where the engine's rounding does not notice
            end = max(request.n_past, end // self._engine.block_size * self._engine.block_size)
        n_logits = int(end == request.n_tokens)
        return Slice(request.lease.seq, request.tokens[request.n_past : end], request.n_past, n_logits)

    def _draft(self, speculator: Speculator, plan: Plan, n_decoding: int) -> None:
        """Add drafts to the first parts of the plan, which are those of decoding requests. Whoever is cancelled
        meanwhile ends it: all of the plan wait for it."""
        parts = [part for part in plan[:n_decoding] if part.request.takes_drafts]
        wants = [_want(part.request) for part in parts]
        if not wants or not self._take_off([part.request for part in plan]):
            return
        n_rows = sum(len(part.slice.token_ids) for part in plan)
        self._drafting = True
        try:
            room, n_beside = self._engine.n_batch - n_rows, n_decoding - len(wants)
            drafts = speculator.draft(wants, n_rows - len(wants), room, n_beside, len(self._running))
        except ForwardCancelled:
            return
        finally:
            self._drafting = False
            self._land()
        for part, draft in zip(parts, drafts, strict=True):
            if len(draft):
                known = part.slice
                ids = np.concatenate([known.token_ids, draft])
                part.slice = Slice(known.seq, ids, known.n_past, 1 + len(draft))
                part.n_drafted = len(draft)

    # ---- forward

    def _forward(self, plan: Plan) -> Logits | None:
        """The wanted logits; None when somebody was cancelled or the engine failed, after which sequences may be
        shorter."""
        if not self._take_off([part.request for part in plan]):
            return None
        n_rows, begin = sum(len(part.slice.token_ids) for part in plan), time.perf_counter()
        self.n_computing = n_rows
        try:
            self._pool.make_room(n_rows)
            rows = self._engine.forward([part.slice for part in plan])
        except ForwardCancelled:
            self._reread(plan)
            return None
        except EdgeInferError as error:
            self._reread(plan)
            for part in plan:
                self._leave(part.request)
                part.request.sink.failed(error)
            return None
        finally:
            self._land()
        n_read = 0
        for part in plan:
            n = len(part.slice.token_ids)
            part.request.n_past += n
            if not part.request.n_generated:
                part.request.n_prefilled += n
                n_read += n
        self.n_prefilled += n_read
        if self._shelf is not None and n_read == n_rows:
            self._shelf.saw_prefill(n_read, time.perf_counter() - begin)
        return rows

    def _take_off(self, requests: Sequence[Request | EmbedRequest]) -> bool:
        with self._lock:
            if self._stopping or any(request.cancelled for request in requests):
                return False
            self._in_flight = requests
            self._interrupt(False)
            return True

    def _land(self) -> None:
        self.n_computing = 0
        with self._lock:
            self._in_flight = ()

    def _reread(self, plan: Iterable[_Part]) -> None:
        for part in plan:
            part.request.n_past = self._engine.length(part.slice.seq)

    def _embed(self, request: EmbedRequest) -> bool:
        """Run an embedding in a pass of its own; False when no sequence is free for it now."""
        lease = self._pool.acquire(request.token_ids[:1], len(request.token_ids))
        if lease is None:
            return False
        try:
            if self._take_off([request]):
                self.n_computing = len(request.token_ids)
                self._pool.make_room(len(request.token_ids))
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

    def _accept(self, plan: Plan, rows: Logits, pass_ms: float) -> None:
        """Let every request choose from its rows: one token, and one more for each drafted token that it chose too
        (speculative decoding, Leviathan et al., 2023, https://arxiv.org/abs/2211.17192; a draft is one guess, so
        that rejection sampling is to draw from the target and keep the guess if it was drawn)."""
        ended: list[tuple[Request, FinishReason | EdgeInferError]] = []
        checked: list[Checked] = []
        first = 0
        for part in plan:
            n_logits = part.slice.n_logits
            if n_logits and not part.request.cancelled:
                end, outcome = self._choose(part, rows[first : first + n_logits])
                if end is not None:
                    ended.append((part.request, end))
                if part.request.takes_drafts and (
                    part.request.n_generated > 1 or part.n_drafted
                ):  # not the end of a prompt
                    checked.append(outcome)
            first += n_logits
        for part in plan:
            self._keep_chosen(part)
        if self._speculator is not None:
            self._speculator.checked(checked, sum(len(part.slice.token_ids) for part in plan), pass_ms)
        for request, end in ended:
            if isinstance(end, EdgeInferError):
                self._leave(request)
                request.sink.failed(end)
            else:
                self._finish(request, end)

    @staticmethod
    def _choose(part: _Part, rows: Logits) -> tuple[FinishReason | EdgeInferError | None, Checked]:
        """Sample position after position for as long as the draft holds."""
        request, n_drafted = part.request, part.n_drafted
        draft = part.slice.token_ids[len(part.slice.token_ids) - n_drafted :].tolist()
        outcome = Checked(request.key, n_drafted, 0, -1)
        request.n_rounds += n_drafted > 0
        request.n_drafted += n_drafted
        end: FinishReason | EdgeInferError | None = None
        for i, row in enumerate(rows):
            try:
                sampled = request.sampler.sample(row)
                end = request.accept(sampled)
            except EdgeInferError as error:
                return error, outcome
            outcome.next_id = sampled.token_id
            if i == n_drafted or draft[i] != sampled.token_id:
                break
            outcome.n_right += 1
            part.n_right += 1
            request.n_accepted += 1
            if end is not None:
                outcome.next_id = -1
                break
        return end, outcome

    def _keep_chosen(self, part: _Part) -> None:
        """Cut the drafted tokens that were not chosen out of the sequence, and a chosen end: it is not part of the
        text, and whoever continues that would find a token too many."""
        request = part.request
        n_kept = min(request.n_past - part.n_drafted + part.n_right, request.n_tokens)
        if n_kept < request.n_past:
            request.n_past = self._engine.truncate(part.slice.seq, n_kept)

    def _finish(self, request: Request, reason: FinishReason) -> None:
        if self._speculator is not None:
            request.draft_gain = self._speculator.gain(request.key)
        stats = request.stats()
        self._leave(request)
        request.sink.done(reason, stats)

    def _leave(self, request: Request) -> None:
        self._running.remove(request)
        if self._speculator is not None:
            self._speculator.end(request.key, request.tokens)
        if request.lease is not None:
            self._pool.give_back(request.lease, request.tokens)

    def _drop_cancelled(self) -> None:
        for request in self._waiting.drop_cancelled():
            if isinstance(request, Request):
                request.sink.done(request.cancelled or "cancelled", request.stats())
            else:
                request.sink.failed(RequestCancelled("the request was cancelled"))
        for running in [request for request in self._running if request.cancelled]:
            self._finish(running, running.cancelled or "cancelled")


def _want(request: Request) -> Want:
    sampler = request.sampler
    n_left = request.n_limit - request.n_tokens
    return Want(request.key, request.tokens, n_left - 1, n_left, sampler.guess, sampler.fits)


def _is_reading(request: Request | EmbedRequest) -> bool:
    return isinstance(request, EmbedRequest) or request.n_pending > 1
