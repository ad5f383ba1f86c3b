"""What a person finds at `/`, and the routes below `/page/` that the page asks.

The page's own policy lets it load its own files, by a number that is drawn for each visit, and ask its own server:
nothing else, wherever it may come from."""

from __future__ import annotations

import functools
import secrets
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from edgeinfer import __version__
from edgeinfer.bodies.fields import Body
from edgeinfer.core import SamplingParams
from edgeinfer.errors import UsageError
from edgeinfer.server.asking import Asking
from edgeinfer.server.page.answering import Question, answering
from edgeinfer.server.page.keeping import Kept
from edgeinfer.server.page.rendering import code_styles
from edgeinfer.server.problems import JSON, Problem
from edgeinfer.server.sse import EventStream
from edgeinfer.sessions import exists

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
_FOLDER = Path(__file__).parent / "files"
_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types rendered"
)
_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "max_tokens", "seed")
Name = Annotated[str, Field(max_length=64)]


class Settings(Body):
    """What the page lets one choose. None: the default."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def chosen(self) -> dict[str, Any]:
        """Options of a request. Raises `UsageError` for one out of range."""
        given = {name: getattr(self, name) for name in _SETTINGS if getattr(self, name) is not None}
        SamplingParams(**given)
        defaults = SamplingParams()
        return {name: given.get(name, getattr(defaults, name)) for name in _SETTINGS}


class AskBody(Body):
    model: Annotated[str, Field(max_length=200)]
    text: str = ""
    session: Name | None = None
    again: bool = False
    at: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    settings: Settings = Settings()
    system: str | None = None


@router.get("/")
async def root(_request: Request) -> Response:
    """The page."""
    nonce = secrets.token_urlsafe(16)
    text = _text("index.html").replace("{{nonce}}", nonce)
    headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cross-Origin-Opener-Policy": "same-origin"}
    return Response(text, media_type="text/html; charset=utf-8", headers=headers)


@router.get("/page/files/{name}")
async def file(name: str) -> Response:
    """A file of the page, by its name in our list of them."""
    if name not in _names():
        raise Problem(404, "there is nothing here")
    text = _text(name) + (code_styles() if name == "style.css" else "")
    return Response(text, media_type=_KINDS[Path(name).suffix])


@functools.cache
def _names() -> frozenset[str]:
    return frozenset(path.name for path in _FOLDER.iterdir() if path.suffix in _KINDS)


@functools.cache
def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@router.get("/page/state")
async def state(request: Request) -> Response:
    """What can be chosen: models and the defaults of settings."""
    models = _asking(request).models
    defaults = SamplingParams()
    return JSON(
        {
            "version": __version__,
            "models": [{"name": name, "state": models.state(name)} for name in models.specs()],
            "defaults": {name: getattr(defaults, name) for name in _SETTINGS},
        }
    )


@router.get("/page/memory")
async def memory(request: Request) -> Response:
    """Memory of the machine and of each open model, in bytes."""
    import psutil

    machine = psutil.virtual_memory()
    models = {name: model.facts.planned_bytes for name, model in _asking(request).models.open_models().items()}
    return JSON({"total_bytes": machine.total, "available_bytes": machine.available, "models": models})


@router.get("/page/sessions")
async def all_sessions(request: Request) -> Response:
    """The newest conversations."""
    return JSON({"sessions": await _kept(request).listing()})


@router.get("/page/sessions/{name}")
async def one_session(request: Request, name: Name) -> Response:
    """One conversation, its answers as HTML; after the answer that is under way in it."""
    async with _kept(request).alone(name):
        _must_exist(name)
        return JSON(await _kept(request).shown(name))


@router.delete("/page/sessions/{name}")
async def remove_session(request: Request, name: Name) -> Response:
    """Delete it."""
    _must_exist(name)
    await _kept(request).remove(name)
    return JSON({"removed": name})


@router.post("/page/ask")
async def ask(request: Request, body: AskBody) -> Response:
    """Answer as HTML that grows; see `answering`."""
    if body.session is not None:
        _must_exist(body.session)
    if not body.again and not body.text.strip():
        raise Problem(400, "the message is empty", param="text")
    model = _asking(request).models.find(body.model).name
    question = Question(model, body.text, body.session, body.again, body.at, body.settings.chosen(), body.system)
    return EventStream(answering(_asking(request), _kept(request), question), _nothing)


async def _nothing() -> None:
    pass


def _must_exist(name: str) -> None:
    """Also for names that can be none: what is not there is not there."""
    try:
        found = exists(name)
    except UsageError:
        found = False
    if not found:
        raise Problem(404, "there is no such conversation", param="session")


def _asking(request: Request) -> Asking:
    asking: Asking = request.app.state.asking
    return asking


def _kept(request: Request) -> Kept:
    kept: Kept | None = getattr(request.app.state, "page", None)
    if kept is None:
        kept = request.app.state.page = Kept()
    return kept
