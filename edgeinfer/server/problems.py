"""What a client is told when something is wrong: a status, a message, and the shape that its API expects.

Whatever fails in a model or its engine is 503: the request may be asked again. 500 is a bug of ours."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from edgeinfer.bodies.errors import BodyError
from edgeinfer.errors import (
    ContextOverflow,
    EdgeInferError,
    GrammarError,
    InsufficientMemory,
    ModelNotFound,
    TemplateError,
    UsageError,
)
from edgeinfer.server.workers.models import Overloaded

__all__ = ["JSON", "Problem", "dumps", "from_error", "response", "told"]

_LOG = logging.getLogger("edgeinfer.server")

_OPENAI = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "server_error",
    500: "server_error",
}
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


class Problem(Exception):
    """An answer that is an error. ``param`` names the field at fault, ``code`` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self, path: str) -> dict[str, Any]:
        """The error as the API that ``path`` belongs to writes it."""
        if path.startswith("/v1/messages"):
            kind = _ANTHROPIC.get(self.status, "invalid_request_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        kind = _OPENAI.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def from_error(error: Exception) -> Problem:
    """What an error of the library, or a bug, is to a client."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Overloaded):
        wait = {"Retry-After": str(min(60, max(1, math.ceil(error.retry_s))))}
        return Problem(429, "too many requests wait already; try again later", code="queue_full", headers=wait)
    if not isinstance(error, EdgeInferError):
        return Problem(500, "this is a bug in edgeinfer; its log says more", code="internal_error")
    message = str(error)
    if isinstance(error, ContextOverflow):
        return Problem(400, message, code="context_length_exceeded", param="messages")
    if isinstance(error, GrammarError):
        return Problem(400, message, code="invalid_grammar", param="response_format")
    if isinstance(error, BodyError):
        return Problem(400, message, param=error.param)
    if isinstance(error, (UsageError, TemplateError)):
        return Problem(400, message, code="invalid_value")
    if isinstance(error, ModelNotFound):
        return Problem(404, message, code="model_not_found", param="model")
    code = "insufficient_memory" if isinstance(error, InsufficientMemory) else "engine_error"
    return Problem(503, message, code=code, headers={"Retry-After": "5"})


def told(error: Exception, path: str) -> dict[str, Any]:
    """An error in the middle of a stream, where no status can say it any more."""
    problem = from_error(error)
    if problem.status == 500:
        _LOG.error("a bug broke off a stream of %s", path, exc_info=error)
    return problem.body(path)


def dumps(value: Any) -> bytes:
    """JSON as sent: text as it is, but for half surrogate pairs, which no UTF-8 can hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


class JSON(Response):
    """A JSON response by our own `dumps`."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


def response(problem: Problem, path: str) -> Response:
    return JSON(problem.body(path), problem.status, problem.headers)
