"""The application: routes behind the guard, and every error as its API writes it. Opens no socket."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from edgeinfer import __version__
from edgeinfer.bodies.errors import fault
from edgeinfer.errors import EdgeInferError
from edgeinfer.server import page
from edgeinfer.server.api import chat, completions, embeddings, messages, responses, status, tokens
from edgeinfer.server.api.kept import Kept
from edgeinfer.server.asking import Asking
from edgeinfer.server.config import ServerConfig
from edgeinfer.server.guard import Guard
from edgeinfer.server.metrics import Metrics
from edgeinfer.server.problems import Problem, from_error, response
from edgeinfer.server.sse import ClientLeft
from edgeinfer.server.workers.models import Models, Overloaded

__all__ = ["create_app"]

_LOG = logging.getLogger("edgeinfer.server")


def create_app(
    config: ServerConfig,
    models: Models,
    *,
    preload: tuple[str, ...] = (),
    failed: Callable[[BaseException], None] = lambda _error: None,
    local_addresses: tuple[str, ...] = (),
) -> Guard:
    """An ASGI application over ``models``, which it starts and closes with itself (its lifespan). ``preload``: models
    that are opened at once; ``failed`` hears of one that cannot be. ``local_addresses``: see
    `ServerConfig.host_names`."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        models.start(preload, failed)
        try:
            yield
        finally:
            await models.close()

    # The pages that FastAPI would write load scripts from elsewhere; the schema alone is ours.
    app = FastAPI(title="edgeinfer", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.asking = Asking(models, config.limits, Metrics(models))
    app.state.kept = Kept()
    app.state.config = config
    for part in (chat, completions, embeddings, messages, responses, tokens, status, page):
        app.include_router(part.router)
    for kind in (Problem, EdgeInferError, Overloaded, Exception):
        app.add_exception_handler(kind, _failed)
    app.add_exception_handler(ClientLeft, _left)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    return Guard(app, config, local_addresses)


async def _failed(request: Request, error: Exception) -> Response:
    problem = from_error(error)
    if problem.status == 500:
        _LOG.error("a bug met %s %s", request.method, request.url.path, exc_info=error)
    elif problem.status == 503:
        _LOG.warning("%s %s: %s", request.method, request.url.path, problem.message)
    return response(problem, request.url.path)


async def _left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _refused(request: Request, error: Exception) -> Response:
    """No such route, or not by this method, or a body that is no JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    headers = dict(getattr(error, "headers", None) or {})
    words = {404: "there is nothing here", 405: "this address does not take that method"}
    message = words.get(status, str(getattr(error, "detail", error)))
    return response(Problem(status, message, headers=headers), request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    """The first of what is wrong with a body, and where."""
    found = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {}
    if found.get("type") == "json_invalid":
        return response(Problem(400, "the body is not JSON", code="invalid_json"), request.url.path)
    where, message = fault(found)
    return response(Problem(400, message, code="invalid_body", param=where[:200] or None), request.url.path)
