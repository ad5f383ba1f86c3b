"""``edgeinfer serve``: models over HTTP, for this machine alone unless a key is set."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli import options
from edgeinfer.cli.flags import Command, flag
from edgeinfer.errors import BackendUnavailable, UsageError

if TYPE_CHECKING:
    from edgeinfer.server.config import ServerConfig
    from edgeinfer.server.workers.models import ModelSpec

__all__ = ["command"]

_SERVER, _LIMITS = "Server", "Limits"
_SECONDS = click.FloatRange(min=0, min_open=True)
_PARALLEL = (8, 4, 2, 1)
"""Requests at once where nobody says how many: the first of these that memory is enough for."""


@click.command("serve", cls=Command)
@flag(
    "-m",
    "--model",
    "models",
    metavar="[NAME=]MODEL",
    multiple=True,
    section="Model and machine",
    help="Catalogue name, path, or hf:owner/repo[:quant], under a name of its own; may be repeated. The first is "
    "opened at once.  [default: what of the catalogue is on this machine]",
)
@options.engine_flags
@flag("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", section=_SERVER, help="Listen here.")
@flag(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=8080,
    show_default=True,
    section=_SERVER,
    help="0: any free one.",
)
@flag("--api-key", metavar="KEY", section=_SERVER, help="Who asks must know this key; better in a file.")
@flag(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    section=_SERVER,
    help="A file with the key, its first line.",
)
@flag("--allow-host", multiple=True, metavar="HOST[:PORT]", section=_SERVER, help="A further name of this server.")
@flag(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    section=_SERVER,
    help="Whose web pages may ask, as a browser says.",
)
@flag(
    "-np",
    "--parallel",
    type=click.IntRange(1, 64),
    metavar="N",
    section=_SERVER,
    help=f"Requests computed at once, for each model.  [default: {_PARALLEL[0]}, or what fits]",
)
@flag(
    "--idle-unload",
    type=click.FloatRange(min=0),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    section=_SERVER,
    help="Unload a model that nobody asks (0: never).",
)
@flag(
    "--hang-restart",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    section=_SERVER,
    help="Restart an engine of which no step ends for so long.",
)
@flag(
    "--hang-opening",
    type=_SECONDS,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    section=_SERVER,
    help="Open a model anew whose process shows no sign of life for so long.",
)
@flag(
    "--max-queue",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    metavar="N",
    section=_LIMITS,
    help="Requests that may wait, for each model; more are refused.",
)
@flag(
    "--max-body",
    default="8M",
    show_default=True,
    metavar="SIZE",
    section=_LIMITS,
    help="The largest request.",
)
@flag(
    "--max-time",
    type=_SECONDS,
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    section=_LIMITS,
    help="The longest that a request may take, its waiting included.",
)
@options.json_flag
@options.debug_flag
def command(**flags: Any) -> None:
    """Serve models over HTTP, as OpenAI's and Anthropic's APIs.

    Only this machine is listened to unless --host says otherwise, which needs a key. --memory is for all models
    together. Ctrl-C or SIGTERM lets what runs finish; a second one ends at once.

    \b
      edgeinfer serve -m qwen2.5-coder-1.5b
      curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"messages": [{"role": "user", "content": "Hello"}]}'
    """
    from edgeinfer.cli.loading import notice

    config = _config(flags)
    specs, others = _models(flags)
    try:
        from edgeinfer.server import running
        from edgeinfer.server.workers.models import Models
    except ImportError as error:
        raise BackendUnavailable(f"serve needs more packages: pip install 'edgeinfer[server]' ({error})") from error
    _log()
    models = Models(
        specs,
        others=others,
        memory_bytes=config.memory_bytes,
        idle_s=config.idle_s,
        stalled_s=config.stalled_s,
        hang_s=config.hang_s,
        open_s=config.open_s,
        in_process=bool(getattr(sys, "frozen", False)),  # a frozen program is no Python to start another with
        said=notice,
    )

    def listening(url: str) -> None:
        notice(f"listening at {url} ({'with' if config.api_key else 'without'} a key); Ctrl-C ends it")
        if flags["as_json"]:
            print(json.dumps({"url": url, "models": sorted(models.specs())}), flush=True)

    preload = tuple(spec.name for spec in specs[:1])
    running.run(config, models, preload=preload, listening=listening, draining=lambda: notice(_DRAINING))


_DRAINING = "finishing what runs; once more ends it at once"


def _config(flags: Mapping[str, Any]) -> ServerConfig:
    """Raises `UsageError` for what cannot be."""
    from edgeinfer.files import parse_bytes
    from edgeinfer.server.config import Limits, ServerConfig

    key = flags["api_key"]
    if flags["api_key_file"]:
        if key:
            raise UsageError("only one of --api-key and --api-key-file can be given")
        lines = options.read_text(flags["api_key_file"], "key", 4096).splitlines()
        key = lines[0].strip() if lines else ""
    limits = Limits(body_bytes=parse_bytes(flags["max_body"]), n_queue=flags["max_queue"], request_s=flags["max_time"])
    return ServerConfig(
        host=flags["host"],
        port=flags["port"],
        api_key=key,
        allowed_hosts=flags["allow_host"],
        allowed_origins=flags["allow_origin"],
        limits=limits,
        memory_bytes=flags["memory"],
        idle_s=flags["idle_unload"],
        hang_s=flags["hang_restart"],
        open_s=flags["hang_opening"],
    )


def _models(flags: Mapping[str, Any]) -> tuple[tuple[ModelSpec, ...], dict[str, Any]]:
    """The models that were named, fetched where they are not here, and the arguments for all others."""
    from edgeinfer import catalog
    from edgeinfer.cli import loading
    from edgeinfer.drafting import DRAFTS
    from edgeinfer.server.workers.models import ModelSpec

    arguments = options.llm_arguments(flags)
    del arguments["memory"]  # it is for all models together
    arguments["n_parallel"] = flags["parallel"] or list(_PARALLEL)
    if flags["draft"] not in DRAFTS:
        loading.fetch(flags["draft"])
    wanted = list(flags["models"])
    if not wanted and not any(_is_here(name) for name in catalog.cards()):
        wanted = [catalog.DEFAULT_MODEL]
    specs: dict[str, ModelSpec] = {}
    for entry in wanted:
        alias, separator, source = entry.partition("=")
        if not separator or "/" in alias or ("." in alias and Path(entry).exists()):
            alias, source = "", entry
        loading.fetch(source)
        name = alias or catalog.resolve(source).name
        if name in specs:
            raise UsageError(f"two models are called {name!r}; give one another name: -m OTHER={source}")
        specs[name] = ModelSpec(name, {**arguments, "model": source})
    if not wanted and _is_here(catalog.DEFAULT_MODEL):  # the first is what a request without a name gets
        name = catalog.DEFAULT_MODEL
        specs[name] = ModelSpec(name, {**arguments, "model": name})
    return tuple(specs.values()), arguments


def _is_here(name: str) -> bool:
    from edgeinfer import catalog
    from edgeinfer.errors import EdgeInferError

    try:
        catalog.resolve(name)
    except (EdgeInferError, OSError):
        return False
    return True


def _log() -> None:
    """What goes wrong is told on standard error, a line each; a bug with its traceback."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("edgeinfer: %(message)s"))
    for name in ("edgeinfer.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
