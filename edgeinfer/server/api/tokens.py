"""`POST /tokenize` and `/detokenize`: what a text costs in tokens, and back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from edgeinfer.bodies.chat import ChatMessage, Tool, message_for_template
from edgeinfer.bodies.fields import Body, toolbox
from edgeinfer.bodies.tools import plain_messages
from edgeinfer.server.api.completions import TokenId
from edgeinfer.server.asking import Asking
from edgeinfer.server.problems import JSON, Problem
from edgeinfer.server.sse import unless_left

__all__ = ["router"]


class TokenizeBody(Body):
    """A text (``content``, or ``prompt``) or ``messages``, which go through the chat template. ``add_special``: with
    the token that begins a text. ``with_pieces``: also the text that each token stands for."""

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    tools: list[Tool] | None = Field(None, max_length=128)
    add_special: bool = False
    with_pieces: bool = False


class DetokenizeBody(Body):
    model: str | None = None
    tokens: list[TokenId]


router = APIRouter()


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeBody) -> Response:
    """The token ids of a text or a conversation, and how many the model's context holds."""
    return await unless_left(request, _tokenized(request.app.state.asking, body))


async def _tokenized(asking: Asking, body: TokenizeBody) -> Response:
    given = [value for value in (body.content, body.prompt, body.messages) if value is not None]
    if len(given) != 1:
        raise Problem(400, "give one of content, prompt and messages")
    async with asking.place(body.model, "tokenize") as model:
        text: Any = given[0]
        tools = None
        if not isinstance(text, str):
            text = [message_for_template(message, i) for i, message in enumerate(text)]
            tools = toolbox([tool.function for tool in body.tools or ()], "auto").told
            if not model.facts.takes_tools:
                text, tools = plain_messages(text, tools), None
        found = await model.tokenize(text, add_special=body.add_special, pieces=body.with_pieces, tools=tools)
        tokens: list[Any] = found["ids"]
        if body.with_pieces:
            tokens = [
                {"id": i, "piece": _piece(piece.encode("latin-1"))}
                for i, piece in zip(tokens, found["pieces"], strict=True)
            ]
        n_ctx = model.facts.n_ctx
        return JSON({"model": model.name, "tokens": tokens, "count": len(tokens), "max_model_len": n_ctx})


def _piece(piece: bytes) -> str | list[int]:
    """Text, or its bytes where they are only part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeBody) -> Response:
    """The text of token ids."""
    return await unless_left(request, _detokenized(request.app.state.asking, body))


async def _detokenized(asking: Asking, body: DetokenizeBody) -> Response:
    async with asking.place(body.model, "detokenize") as model:
        text = await model.detokenize(body.tokens)
        return JSON({"model": model.name, "content": text, "prompt": text})
