"""`POST /v1/responses`: OpenAI's newer API, where a response can follow on another by its id. What was said is kept in
memory only, and only the latest of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from edgeinfer.bodies.output import Output
from edgeinfer.bodies.responses import ResponseBody, ended_part
from edgeinfer.core import Answer, Token
from edgeinfer.server.api.kept import Kept
from edgeinfer.server.asking import Ask, Asking, Running, timings
from edgeinfer.server.problems import JSON, told
from edgeinfer.server.sse import EventStream, event, unless_left

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/responses")
async def respond(request: Request, body: ResponseBody) -> Response:
    """Respond to a text or to items."""
    asking: Asking = request.app.state.asking
    kept: Kept = request.app.state.kept
    box = body.toolbox()
    before: list[dict[str, Any]] = []
    if body.previous_response_id is not None:
        before = kept.history(body.previous_response_id)
    ask = Ask(body.model, body.conversation(before), body.options(box), route="responses")
    running = await unless_left(request, asking.begin(ask))
    output = Output(running.model.token_bytes, box.names)
    head = {"id": f"resp_{uuid.uuid4().hex}", "created_at": int(time.time()), "model": running.model.name}
    head |= body.described()

    def ended(answer: Answer) -> dict[str, Any]:
        found = {**head, **ended_part(answer, int(time.time())), "output": output.items}
        if body.store is not False:
            kept.keep(found, [*before, *body.messages(), output.message()])
        return {**found, "timings": timings(answer.stats)}

    if body.stream:
        return EventStream(_events(running, output, head, ended), running.close)
    try:
        answers = await unless_left(request, running.answers())
    finally:
        await running.close()
    for token in answers[0].tokens:
        output.feed(token)
    output.end(cut=answers[0].finish_reason != "stop")
    return JSON(ended(answers[0]))


async def _events(running: Running, output: Output, head: dict[str, Any], ended: Any) -> AsyncGenerator[bytes, None]:
    """The response as it comes, each event with its number."""
    number = 0

    def numbered(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number - 1, **fields}, kind)

    empty: dict[str, Any] = {"error": None, "incomplete_details": None, "output": [], "usage": None}
    begun = {**head, **empty, "status": "in_progress"}
    try:
        yield numbered("response.created", response=begun)
        yield numbered("response.in_progress", response=begun)
        async for _, got in running.events():
            cut = isinstance(got, Answer) and got.finish_reason != "stop"
            for kind, fields in output.feed(got) if isinstance(got, Token) else output.end(cut=cut):
                yield numbered(kind, **fields)
            if isinstance(got, Answer):
                whole = ended(got)
                yield numbered(f"response.{whole['status']}", response=whole)
    except Exception as error:
        message = told(error, "/v1/responses")["error"]["message"]
        failed = {**begun, "status": "failed", "error": {"code": "server_error", "message": message}}
        yield numbered("response.failed", response=failed)


@router.get("/v1/responses/{name}")
async def retrieve(request: Request, name: str) -> Response:
    """A response from before."""
    kept: Kept = request.app.state.kept
    return JSON(kept.response(name))


@router.delete("/v1/responses/{name}")
async def delete(request: Request, name: str) -> Response:
    """Forget a response."""
    kept: Kept = request.app.state.kept
    kept.forget(name)
    return JSON({"id": name, "object": "response", "deleted": True})
