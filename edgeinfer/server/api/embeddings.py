"""`POST /v1/embeddings`: texts as vectors."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from edgeinfer.bodies.fields import Body
from edgeinfer.bodies.parts import vector_part
from edgeinfer.server.api.completions import TokenIds
from edgeinfer.server.asking import Asking
from edgeinfer.server.problems import JSON, Problem
from edgeinfer.server.sse import unless_left
from edgeinfer.server.waiting import in_time

__all__ = ["EmbeddingBody", "router"]

MOST_TEXTS = 2048


class EmbeddingBody(Body):
    """``dimensions``: the first so many numbers, scaled to length 1 again; for models that were trained so."""

    input: str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    model: str | None = None
    dimensions: int | None = Field(None, ge=1, lt=2**31)
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None

    def texts(self) -> list[str | list[int]]:
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)


router = APIRouter()


@router.post("/v1/embeddings")
async def embed(request: Request, body: EmbeddingBody) -> Response:
    """Vectors of length 1 for texts, in order."""
    return await unless_left(request, _embedded(request.app.state.asking, body))


async def _embedded(asking: Asking, body: EmbeddingBody) -> Response:
    texts = body.texts()
    if len(texts) > MOST_TEXTS:
        raise Problem(400, f"there are {len(texts)} texts, but at most {MOST_TEXTS} are taken", param="input")
    async with asking.place(body.model, "embeddings") as model:
        try:
            work = asyncio.gather(*(model.embed(text) for text in texts))
            found = await in_time(work, asking.limits.request_s)
        except TimeoutError:
            message = f"not embedded within {asking.limits.request_s:g} s: send fewer texts at once"
            raise Problem(503, message, code="timeout", headers={"Retry-After": "10"}) from None
        n_tokens = sum(n for _, n in found)
        data = [
            {"object": "embedding", "index": i, "embedding": vector_part(vector, body.dimensions, body.encoding_format)}
            for i, (vector, _) in enumerate(found)
        ]
        costs = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        return JSON({"object": "list", "data": data, "model": model.name, "usage": costs})
