"""`/health`, `/metrics`, `/v1/models`: what is here, and how it does."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from edgeinfer import __version__
from edgeinfer.server.asking import Asking
from edgeinfer.server.problems import JSON
from edgeinfer.server.workers.models import Models

__all__ = ["router"]

router = APIRouter()


@router.get("/health")
@router.head("/health", include_in_schema=False)
async def health(request: Request) -> Response:
    """200 while requests are answered; 503 when work waits and no step has ended for a while, or an engine is being
    restarted. Without the key only that; with it, how each model does."""
    models: Models = request.app.state.asking.models
    trouble = models.trouble()
    body: dict[str, Any] = {"status": next(iter(trouble.values())) if trouble else "ok"}
    if request.scope.get("edgeinfer.key"):
        body |= {"version": __version__, "models": {name: models.state(name) for name in models.specs()}}
    headers = {"Retry-After": "5"} if trouble else {}
    return JSON(body, 503 if trouble else 200, headers)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    asking: Asking = request.app.state.asking
    return Response(asking.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The models that can be asked for, whether they are open or not."""
    models: Models = request.app.state.asking.models
    data = [_described(models, name) for name in models.specs()]
    if "anthropic-version" in request.headers:
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return JSON({"object": "list", "data": data, "has_more": False, **ends})
    return JSON({"object": "list", "data": data})


@router.get("/v1/models/{name}")
async def one_model(request: Request, name: str) -> Response:
    """One of them."""
    models: Models = request.app.state.asking.models
    return JSON(_described(models, models.find(name).name))


def _described(models: Models, name: str) -> dict[str, Any]:
    model = models.open_models().get(name)
    facts = model.facts if model else None
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "edgeinfer",
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
        "state": models.state(name),
        "context": facts.n_ctx if facts else None,
        "info": facts.info if facts else None,
    }
