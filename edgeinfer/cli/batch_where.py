"""Where the rows of a batch job are computed: by a model of this process, by a server, by a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeinfer.cli import options
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.batch.compute import Remote
    from edgeinfer.batch.endpoint import EndpointComputer
    from edgeinfer.batch.ray import RayComputer
    from edgeinfer.llm import LLM

__all__ = ["check", "opened", "sampling", "settings"]

_OF_MODELS = (
    *("draft", "no_kernels", "ctx_size", "threads", "threads_batch", "memory", "kv_type", "kv_cache", "device"),
    *("require", "engine", "on_overflow", "chat_template", "parallel"),
)


def check(ctx: click.Context, flags: Mapping[str, Any]) -> None:
    """Raises `UsageError` for flags that do not go together."""
    typed = [name for name in flags if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    wrong = [name for name in typed if name in (_OF_MODELS if flags["endpoint"] else _OF_ENDPOINTS)]
    if wrong:
        named = ", ".join(max(_parameter(ctx, name).opts, key=len) for name in wrong)
        instead = "; use --concurrency" if "parallel" in wrong else ""
        why = "the server decides with --endpoint" if flags["endpoint"] else "needs --endpoint"
        raise UsageError(f"{named}: {why}{instead}")


_OF_ENDPOINTS = ("concurrency", "api_key_file", "timeout")


def _parameter(ctx: click.Context, name: str) -> click.Parameter:
    return next(param for param in ctx.command.params if param.name == name)


def sampling(ctx: click.Context, flags: Mapping[str, Any]) -> dict[str, Any]:
    """What rows are asked with. A server is told only what somebody has set: it has defaults of its own, and may know
    fewer parameters than we do."""
    arguments = options.sampling_arguments(flags)
    if not flags["endpoint"]:
        return arguments
    told = {"grammar"} | {name for name in flags if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    return {name: value for name, value in arguments.items() if name in told and value is not None}


def settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags that results depend on, besides the sampling: part of what the job is."""
    if flags["endpoint"]:
        return {}
    names = ("kv_type", "device", "on_overflow", "no_kernels")
    engine = "auto" if flags["engine"] == "ray" else flags["engine"]  # a job may move to a cluster, and back
    template = flags["chat_template"]
    text = options.read_text(template, "chat template", 1 << 20) if template else None
    return {**{name: flags[name] for name in names}, "engine": engine, "chat_template": text}


@contextlib.contextmanager
def opened(ctx: click.Context, flags: Mapping[str, Any]) -> Iterator[LLM | Remote]:
    """Who computes, until the block ends."""
    if flags["endpoint"]:
        found: LLM | Remote = _endpoint(flags)
    else:
        found = _cluster(ctx, flags) if flags["engine"] == "ray" else _local(ctx, flags)
    try:
        yield found
    finally:
        found.close()


def _endpoint(flags: Mapping[str, Any]) -> EndpointComputer:
    from edgeinfer import env
    from edgeinfer.batch.endpoint import EndpointComputer
    from edgeinfer.cli.loading import notice

    key = env.api_key()
    if flags["api_key_file"]:
        lines = options.read_text(flags["api_key_file"], "key", 4096).splitlines()
        key = lines[0].strip() if lines else ""
    computer = EndpointComputer(
        flags["endpoint"], flags["model"], key=key, concurrency=flags["concurrency"], timeout_s=flags["timeout"]
    )
    for line in computer.notices:
        notice(line)
    return computer


def _cluster(ctx: click.Context, flags: Mapping[str, Any]) -> RayComputer:
    from edgeinfer import catalog
    from edgeinfer.batch.ray import N_PLACES, RayComputer
    from edgeinfer.cli import loading
    from edgeinfer.cli.progress import status

    n_places = flags["parallel"] or N_PLACES
    name = flags["model"] or catalog.DEFAULT_MODEL
    given = {"model": name, "engine": "auto", "n_places": n_places, "fixed": flags["parallel"] is not None}
    arguments = {**_arguments(ctx, flags), **given}
    n_gpus = int(flags["device"].partition(":")[0] in ("gpu", "cuda"))  # Ray hides them from whoever asks for none

    def work() -> RayComputer:
        return RayComputer(arguments, n_places=n_places, n_gpus=n_gpus)

    with status(f"opening {name} on the cluster"):
        found = loading.attended(work, "edgeinfer-cluster")
    loading.notice(f"{found.n_workers} workers")
    return found


def _local(ctx: click.Context, flags: Mapping[str, Any]) -> LLM:
    """The model, with as many places as there is room for."""
    from edgeinfer import catalog
    from edgeinfer.cli import loading

    arguments = _arguments(ctx, flags)
    n_parallel = flags["parallel"]
    if n_parallel is None:
        from edgeinfer.batch.places import places
        from edgeinfer.engines import EngineConfig
        from edgeinfer.opening import found

        name = flags["model"] or catalog.DEFAULT_MODEL
        loading.fetch(name)
        config = EngineConfig(
            n_ctx=flags["ctx_size"] or 0,
            kv_type="q8_0" if flags["kv_type"] == "q8_0" else "f16",
            kernels=not flags["no_kernels"],
        )
        n_parallel = places(found(name, flags["engine"]).path, config, flags["memory"], flags["engine"])
    return loading.open_llm(flags["model"], {**arguments, "n_parallel": n_parallel}, spinner=True)


def _arguments(ctx: click.Context, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Of `LLM`, without the model and its places."""
    arguments = options.llm_arguments(flags)
    if ctx.get_parameter_source("kv_cache") is ParameterSource.DEFAULT:
        arguments["kv_cache"] = "off"  # states of thousands of rows would crowd out those of conversations
    return arguments
