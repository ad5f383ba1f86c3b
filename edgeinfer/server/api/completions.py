"""`POST /v1/completions`: a text that goes on, without a chat template. Editors fill in the middle of code with it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from edgeinfer.bodies.fields import Sampling, StreamOptions
from edgeinfer.bodies.parts import finish_word, finite, legacy_logprobs, usage_part
from edgeinfer.core import Answer, GenerationStats, Token
from edgeinfer.server.asking import Ask, Asking, Running, timings, usage
from edgeinfer.server.problems import JSON, Problem, told
from edgeinfer.server.sse import EventStream, event, unless_left
from edgeinfer.server.workers.model import Model

__all__ = ["CompletionBody", "router"]

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]

N_DEFAULT = 16
"""Tokens where nobody says how many; as in OpenAI's API."""


class CompletionBody(Sampling):
    """A text to continue. ``suffix``: the text after it, for models that were trained to fill in the middle."""

    model: str | None = None
    prompt: str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    suffix: str | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    n: int | None = Field(None, ge=1, lt=2**31)
    best_of: int | None = Field(None, ge=1, le=20)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    def asks(self) -> list[Ask]:
        """One for each prompt. Raises `Problem` for what does not go together."""
        n = self.n or 1
        if (self.best_of or n) < n:
            raise Problem(400, f"best_of is {self.best_of}, but must be at least n, which is {n}", param="best_of")
        if self.stream and (self.best_of or n) > n:
            raise Problem(400, "best_of cannot be streamed: the best is known at the end", param="best_of")
        if self.echo and (self.logprobs is not None or not all(isinstance(prompt, str) for prompt in self.prompts())):
            raise Problem(400, "echo takes prompts that are texts, and no logprobs", param="echo")
        options = {**self.sampling(), "max_tokens": self.max_tokens or N_DEFAULT}
        if self.logprobs is not None or (self.best_of or n) > n:
            options["logprobs"] = self.logprobs or 0
        n_each = self.best_of or n
        return [
            Ask(self.model, prompt, options, n=n_each, suffix=self.suffix or None, route="completions")
            for prompt in self.prompts()
        ]

    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


router = APIRouter()


@router.post("/v1/completions")
async def complete(request: Request, body: CompletionBody) -> Response:
    """Continue a text, or several."""
    asking: Asking = request.app.state.asking
    asks = body.asks()
    n_all = len(asks) * (body.n or 1)
    if n_all > asking.limits.n_choices:
        raise Problem(400, f"prompts times n is {n_all}, but at most {asking.limits.n_choices} are taken", param="n")
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
    runs = await unless_left(request, _begin(asking, asks))
    head["model"] = runs[0].model.name
    if body.stream:
        return EventStream(_chunks(runs, body, head), lambda: _close(runs))
    try:
        found = await unless_left(request, _all(runs))
    finally:
        await _close(runs)
    choices: list[dict[str, Any]] = []
    for i, answers in enumerate(found):
        if len(answers) > (body.n or 1):
            answers = sorted(answers, key=_likelihood, reverse=True)[: body.n or 1]
        for answer in answers:
            before = body.prompts()[i] if body.echo else ""
            choices.append(_choice(len(choices), answer, str(before), body, runs[i].model))
    costs = {"usage": usage_part(_total([usage(answers) for answers in found])), "timings": timings(found[0][0].stats)}
    return JSON({**head, "choices": choices, **costs})


async def _begin(asking: Asking, asks: list[Ask]) -> list[Running]:
    """All of them, or none."""
    begun = await asyncio.gather(*(asking.begin(ask) for ask in asks), return_exceptions=True)
    runs = [each for each in begun if isinstance(each, Running)]
    for each in begun:
        if isinstance(each, BaseException):
            await _close(runs)
            raise each
    return runs


async def _all(runs: list[Running]) -> list[list[Answer]]:
    return list(await asyncio.gather(*(run.answers() for run in runs)))


async def _close(runs: list[Running]) -> None:
    for run in runs:
        await run.close()


def _likelihood(answer: Answer) -> float:
    """Mean log-probability of a token."""
    known = [finite(token.logprob) for token in answer.tokens if token.id >= 0]
    return sum(known) / len(known) if known else 0.0


def _choice(i: int, answer: Answer, before: str, body: CompletionBody, model: Model) -> dict[str, Any]:
    logprobs = legacy_logprobs(answer.tokens, model.token_bytes, len(before)) if body.logprobs is not None else None
    return {"index": i, "text": before + answer.text, "logprobs": logprobs, "finish_reason": finish_word(answer)}


def _total(parts: list[GenerationStats]) -> GenerationStats:
    names = ("n_prompt", "n_reused", "n_restored", "n_generated", "n_drafted", "n_accepted")
    return GenerationStats(**{name: sum(getattr(part, name) for part in parts) for name in names})


async def _chunks(runs: list[Running], body: CompletionBody, head: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    costs = bool(body.stream_options and body.stream_options.include_usage)
    extra = {"usage": None} if costs else {}
    n = body.n or 1
    try:
        for at, run in enumerate(runs):  # one prompt after the other; all of them are being computed
            offsets: dict[int, int] = {}
            async for i, got in run.events():
                before = str(body.prompts()[at]) if body.echo and i not in offsets else ""
                offset = offsets.setdefault(i, len(before))
                choice: dict[str, Any] = {"index": at * n + i, "text": before, "logprobs": None, "finish_reason": None}
                last = {}
                if isinstance(got, Token):
                    offsets[i] += len(got.text)
                    choice["text"] += got.text
                    if body.logprobs is not None:
                        choice["logprobs"] = legacy_logprobs((got,), run.model.token_bytes, offset)
                else:
                    choice["finish_reason"] = finish_word(got)
                    last = {"timings": timings(got.stats)}
                yield event({**head, "choices": [choice], **extra, **last})
        if costs:
            yield event({**head, "choices": [], "usage": usage_part(_total([usage(run.finished) for run in runs]))})
        yield event("[DONE]")
    except Exception as error:
        yield event(told(error, "/v1/completions"))
