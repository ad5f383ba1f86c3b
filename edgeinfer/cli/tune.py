"""``edgeinfer tune``: the best thread counts for a model on this machine, measured once and used from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.options import Command, debug_flag, flag, json_flag, kernels_flag, model_flag
from edgeinfer.cli.progress import status

if TYPE_CHECKING:
    from edgeinfer.tune import Tuned

__all__ = ["command"]


@click.command("tune", cls=Command)
@model_flag
@kernels_flag
@flag("--max-threads", type=click.IntRange(1, 1024), metavar="N", help="Try up to N threads.  [default: all cores]")
@flag("--forget", is_flag=True, help="Drop what was measured for this model; go back to the default.")
@json_flag
@debug_flag
def command(model: str | None, no_kernels: bool, max_threads: int | None, forget: bool, as_json: bool) -> None:
    """Measure prefill and decode with every sensible number of threads, and remember the best for this model."""
    import json

    found = _forget(model) if forget else _measure(model, max_threads, not no_kernels)
    if as_json:
        click.echo(json.dumps(found))
    elif not forget:
        _print(found)
    else:
        click.echo(f"{found['model']}: " + ("forgotten" if found["forgotten"] else "nothing was remembered"))


def _forget(model: str | None) -> dict[str, Any]:
    from edgeinfer import catalog, gguf, tune

    local = catalog.resolve(model or catalog.DEFAULT_MODEL)
    return {"model": local.name, "forgotten": tune.forget(gguf.model_info(gguf.read(local.path), name=local.name))}


def _measure(model: str | None, max_threads: int | None, kernels: bool) -> dict[str, Any]:
    import dataclasses

    from edgeinfer import catalog, device, gguf, memory, tune
    from edgeinfer.cli.pulling import download_progress
    from edgeinfer.engines import EngineConfig, open_engine

    with download_progress() as progress:
        local = catalog.ensure(model or catalog.DEFAULT_MODEL, progress=progress)
    file = gguf.read(local.path)
    info = gguf.model_info(file, name=local.name)
    counts = tune.candidates(max_threads or len(device.usable_cpus()))
    config = EngineConfig(n_ctx=1024, n_threads=counts[-1], n_threads_batch=counts[-1], kernels=kernels)
    memory.check(file, config, cap_bytes=None)
    engine = open_engine("auto", local.path, config)
    try:
        with status("measuring") as said:
            tuned: Tuned = tune.measure(engine, info, counts, said)
    finally:
        engine.close()
    tune.remember(tuned)
    return {**dataclasses.asdict(tuned), "model": local.name}


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    from edgeinfer.cli.progress import stdout

    table = Table(title=f"{found['model']}: tokens per second by threads", title_justify="left")
    for heading in ("threads", "prefill", "decode"):
        table.add_column(heading, justify="right")
    for n, decode_tps in found["decode_tps"].items():
        prefill = f"{found['prefill_tps'][n]:.1f}" + (" *" if n == found["n_threads_batch"] else "  ")
        table.add_row(str(n), prefill, f"{decode_tps:.1f}" + (" *" if n == found["n_threads"] else "  "))
    stdout().print(table)
    click.echo(
        f"from now on: {found['n_threads_batch']} threads for prefill, {found['n_threads']} for decode", err=True
    )
