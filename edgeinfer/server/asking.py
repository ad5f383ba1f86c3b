"""One request on its way through a model: a place, one or more answers, and what they cost. Knows neither what APIs
look like nor how models are kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgeinfer.bodies.tools import for_template
from edgeinfer.core import Answer, GenerationStats, Token
from edgeinfer.server.config import Limits
from edgeinfer.server.metrics import Metrics
from edgeinfer.server.problems import Problem
from edgeinfer.server.waiting import in_time
from edgeinfer.server.workers.model import Model, Reply
from edgeinfer.server.workers.models import Models

__all__ = ["Ask", "Asking", "Running", "timings", "usage"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of a model. ``prompt``: messages, a text or token ids. ``options``: as for `LLM.stream`. ``n``
    answers to it; with a seed, answer i has ``seed + i``."""

    model: str | None
    prompt: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    suffix: str | None = None
    route: str = "chat"


class Asking:
    """Asks models on behalf of routes."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics) -> None:
        self.models, self.limits, self.metrics = models, limits, metrics

    async def begin(self, ask: Ask) -> Running:
        """A running request, which must be closed. Raises `Overloaded` at once where too many wait, and what the model
        has against the request."""
        if not 1 <= ask.n <= self.limits.n_choices:
            raise Problem(400, f"n is {ask.n}, but must be between 1 and {self.limits.n_choices}", param="n")
        if isinstance(ask.prompt, list) and ask.prompt and isinstance(ask.prompt[0], dict):
            n, most = len(ask.prompt), self.limits.n_messages
            if n > most:
                raise Problem(400, f"there are {n} messages, but at most {most} are taken", code="too_many_messages")
        running = Running(self, ask)
        try:
            await running.start()
        except BaseException as error:
            await running.close(error)
            raise
        return running

    @contextlib.asynccontextmanager
    async def place(self, model: str | None, route: str, n: int = 1) -> AsyncIterator[Model]:
        """A model for something that is over at once: tokens, embeddings."""
        with self.metrics.request(self.models.find(model).name, route) as outcome:
            async with contextlib.AsyncExitStack() as stack:
                place = self.models.use(model, n, self.limits.n_queue)
                try:
                    found = await in_time(stack.enter_async_context(place), self.limits.request_s)
                except TimeoutError:
                    raise _not_open(self.models.find(model).name, self.limits) from None
                yield found
                outcome.good()


class Running:
    """Answers on their way. Iterate over `events`, or wait for `answers`; then close."""

    def __init__(self, asking: Asking, ask: Ask) -> None:
        self._asking, self._ask = asking, ask
        self._begin = time.monotonic()
        self._stack = contextlib.AsyncExitStack()
        self._replies: list[Reply] = []
        self._finished: dict[int, Answer] = {}
        self.model: Model

    async def start(self) -> None:
        ask, asking = self._ask, self._asking
        name = asking.models.find(ask.model).name
        self._outcome = self._stack.enter_context(asking.metrics.request(name, ask.route))
        place = asking.models.use(name, ask.n, asking.limits.n_queue)
        try:
            self.model = await in_time(self._stack.enter_async_context(place), max(0.001, self._left_s()))
        except TimeoutError:
            raise _not_open(name, asking.limits) from None
        options = {**ask.options, "deadline_s": max(0.001, self._left_s())}
        prompt = self._prompt(options)
        seed = options.pop("seed", None)
        for i in range(ask.n):
            own = options if seed is None else {**options, "seed": (seed + i) % 2**64}
            await self._in_time(self._add(prompt, own))

    async def _add(self, prompt: Any, options: Mapping[str, Any]) -> None:
        reply = await self.model.answer(prompt, options, suffix=self._ask.suffix)
        self._replies.append(await self._stack.enter_async_context(reply))

    def _prompt(self, options: dict[str, Any]) -> Any:
        """The prompt as the model's template can take it."""
        prompt = self._ask.prompt
        if not (isinstance(prompt, list) and prompt and isinstance(prompt[0], dict)):
            return prompt
        takes_tools = self.model.facts.takes_tools
        messages, options["tools"] = for_template(prompt, options.get("tools"), takes_tools=takes_tools)
        return messages

    def _left_s(self) -> float:
        return self._asking.limits.request_s - (time.monotonic() - self._begin)

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            return await in_time(work, max(0.001, self._left_s()))
        except TimeoutError:
            raise _too_late(self._asking.limits) from None

    async def events(self) -> AsyncIterator[tuple[int, Token | Answer]]:
        """(which answer, its next token or its end), as they come. Raises what ends one without an answer."""
        try:
            if len(self._replies) == 1:
                async for event in self._of(0):
                    yield 0, event
            else:
                async for i, event in self._all():
                    yield i, event
        except Exception as error:
            self._outcome.bad(error)
            raise
        self._outcome.good()

    async def _all(self) -> AsyncIterator[tuple[int, Token | Answer]]:
        """The events of several answers, mixed as they come."""
        queue: asyncio.Queue[tuple[int, Token | Answer] | Exception | None] = asyncio.Queue()

        async def pump(i: int) -> None:
            try:
                async for event in self._of(i):
                    queue.put_nowait((i, event))
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.ensure_future(pump(i)) for i in range(len(self._replies))]
        try:
            n_left = len(tasks)
            while n_left:
                got = await queue.get()
                if isinstance(got, Exception):
                    raise got
                if got is None:
                    n_left -= 1
                else:
                    yield got
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _of(self, i: int) -> AsyncIterator[Token | Answer]:
        reply, metrics, name = self._replies[i], self._asking.metrics, self.model.name
        last = self._begin
        n_tokens = 0
        async for token in reply:
            now = time.monotonic()
            metrics.token(name, now - last, first=not n_tokens)
            last = now
            n_tokens += 1
            yield token
        answer = reply.answer
        metrics.answered(name, answer.stats)
        if answer.finish_reason == "deadline" and not answer.stats.n_generated:
            raise _too_late(self._asking.limits)
        if answer.finish_reason == "cancelled":
            raise Problem(503, "the answer was cancelled: the server ends", code="cancelled")
        self._finished[i] = answer
        yield answer

    async def answers(self) -> list[Answer]:
        """All answers, whole."""
        async for _ in self.events():
            pass
        return self.finished

    @property
    def finished(self) -> list[Answer]:
        """The answers that have ended, in order."""
        return [self._finished[i] for i in sorted(self._finished)]

    async def close(self, error: BaseException | None = None) -> None:
        """Cancel what still runs and give the place back. ``error``: what ended it, where something did."""
        if error is not None and hasattr(self, "_outcome"):
            self._outcome.bad(error)
        await self._stack.aclose()


def _too_late(limits: Limits) -> Problem:
    message = f"no answer within {limits.request_s:g} s: too much waits here"
    return Problem(503, message, code="timeout", headers={"Retry-After": "10"})


def _not_open(name: str, limits: Limits) -> Problem:
    message = f"{name} is still being opened after {limits.request_s:g} s; ask again later"
    return Problem(503, message, code="timeout", headers={"Retry-After": "10"})


def usage(answers: list[Answer]) -> GenerationStats:
    """What answers to one prompt cost together: the prompt counts once, and was known as far as each of them knew
    it."""
    stats = [answer.stats for answer in answers]
    return GenerationStats(
        n_prompt=stats[0].n_prompt,
        n_reused=min(each.n_reused for each in stats),
        n_restored=min(each.n_restored for each in stats),
        n_generated=sum(each.n_generated for each in stats),
        n_drafted=sum(each.n_drafted for each in stats),
        n_accepted=sum(each.n_accepted for each in stats),
    )


def timings(stats: GenerationStats) -> dict[str, Any]:
    """The ``timings`` object of a response, named as in llama.cpp's server: times in milliseconds, rates in tokens per
    second."""
    prompt_ms = 1e3 * max(0.0, stats.ttft_s - stats.queue_s)
    predicted_ms = 1e3 * max(0.0, stats.total_s - stats.ttft_s)
    return {
        "cache_n": stats.n_reused,
        "restored_n": stats.n_restored,
        "prompt_n": stats.n_prompt - stats.n_reused,
        "prompt_ms": round(prompt_ms, 3),
        "prompt_per_second": round(stats.prefill_tps, 2),
        "predicted_n": stats.n_generated,
        "predicted_ms": round(predicted_ms, 3),
        "predicted_per_second": round(stats.decode_tps, 2),
        "queue_ms": round(1e3 * stats.queue_s, 3),
        "ttft_ms": round(1e3 * stats.ttft_s, 3),
        "total_ms": round(1e3 * stats.total_s, 3),
        "draft_n": stats.n_drafted,
        "draft_n_accepted": stats.n_accepted,
    }
