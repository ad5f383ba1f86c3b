"""What a person finds at `/`. The chat page has its place here; what it needs besides the APIs goes below `/page/`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from edgeinfer import __version__
from edgeinfer.server.asking import Asking
from edgeinfer.server.problems import JSON

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/")
async def root(request: Request) -> Response:
    """What this is, and where to go."""
    base = str(request.base_url)
    text = f"edgeinfer {__version__}\n\nOpenAI's API: {base}v1\nAnthropic's API: {base}\nHealth: {base}health\n"
    return PlainTextResponse(text)


@router.get("/page/memory")
async def memory(request: Request) -> Response:
    """Memory of the machine and of each open model, in bytes."""
    import psutil

    asking: Asking = request.app.state.asking
    machine = psutil.virtual_memory()
    models = {name: model.facts.planned_bytes for name, model in asking.models.open_models().items()}
    return JSON({"total_bytes": machine.total, "available_bytes": machine.available, "models": models})
