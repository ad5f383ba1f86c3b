"""``edgeinfer tune``: the best thread counts for a model on this machine, and with them what its passes cost, which is
what drafts are weighed by; measured once and used from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.flags import Command, flag
from edgeinfer.cli.options import THREADS, debug_flag, json_flag, kernels_flag, model_flag
from edgeinfer.cli.progress import status

if TYPE_CHECKING:
    from edgeinfer.catalog import LocalModel
    from edgeinfer.core import ModelInfo
    from edgeinfer.tune import Tuned

__all__ = ["command"]


@click.command("tune", cls=Command)
@model_flag
@kernels_flag
@flag("--max-threads", type=THREADS, metavar="N", help="Try up to N threads.  [default: all cores]")
@flag("--forget", is_flag=True, help="Drop what was measured for this model; go back to the default.")
@json_flag
@debug_flag
def command(model: str | None, no_kernels: bool, max_threads: int | None, forget: bool, as_json: bool) -> None:
    """Measure prefill and decode with every sensible number of threads, and remember the best for this model; then what
    a pass of 1 to 16 tokens costs with these, and one of the draft model's if the catalogue's is here."""
    import json

    found = _forget(model) if forget else _measure(model, max_threads, not no_kernels)
    if as_json:
        click.echo(json.dumps(found))
    elif not forget:
        _print(found)
    else:
        click.echo(f"{found['model']}: " + ("forgotten" if found["forgotten"] else "nothing was remembered"))


def _forget(model: str | None) -> dict[str, Any]:
    from edgeinfer import catalog, tune

    local = catalog.resolve(model or catalog.DEFAULT_MODEL)
    forgotten = [tune.forget(_info(local)), _forget_costs(local)]
    return {"model": local.name, "forgotten": any(forgotten)}


def _info(local: LocalModel) -> ModelInfo:
    from edgeinfer import described

    return described.info(described.read(local.path), name=local.name)


def _forget_costs(local: LocalModel) -> bool:
    """Of the model and of its draft model."""
    from edgeinfer import drafting

    _, partner = drafting.partner(local.card)
    forgotten = [drafting.forget(_info(each)) for each in (local, partner) if each is not None]
    return any(forgotten)


def _measure(model: str | None, max_threads: int | None, kernels: bool) -> dict[str, Any]:
    import dataclasses

    from edgeinfer import catalog, described, device, memory, tune
    from edgeinfer.cli.pulling import download_progress
    from edgeinfer.core import MAX_THREADS
    from edgeinfer.engines import EngineConfig, open_engine

    with download_progress() as progress:
        local = catalog.ensure(model or catalog.DEFAULT_MODEL, progress=progress)
    file = described.read(local.path)
    info = described.info(file, name=local.name)
    counts = tune.candidates(max_threads or min(len(device.usable_cpus()), MAX_THREADS))
    config = EngineConfig(n_ctx=1024, n_threads=counts[-1], n_threads_batch=counts[-1], kernels=kernels)
    memory.check(file, config, cap_bytes=None)
    engine = open_engine("auto", local.path, config)
    try:
        with status("measuring") as said:
            tuned: Tuned = tune.measure(engine, info, counts, said)
    finally:
        engine.close()
    tune.remember(tuned)
    return {**dataclasses.asdict(tuned), "model": local.name, **_costs(model, local, kernels)}


def _costs(model: str | None, local: LocalModel, kernels: bool) -> dict[str, Any]:
    """``costs``: as `edgeinfer.cli.drafts.curve_facts`; None for a model that cannot be drafted for. ``draft``: the
    catalogue's partner and what a token of it costs at each depth, in tokens of the model; None where there is none
    here. The model is opened as for a chat, so that what is measured is what a chat will find remembered."""
    from edgeinfer import drafting
    from edgeinfer.cli.drafts import curve_facts
    from edgeinfer.cli.loading import open_llm

    _forget_costs(local)
    with open_llm(model, {"draft": "auto", "kernels": kernels}, spinner=True):
        pass
    curve = next(iter(drafting.remembered(_info(local)).values()), None)
    facts: dict[str, Any] = {"costs": curve and curve_facts(curve), "draft": None}
    _, partner = drafting.partner(local.card)
    price = next(iter(drafting.remembered(_info(partner)).values()), None) if partner else None
    if partner and price and curve:
        ratios = [price.at(depth)(1) / curve.at(depth)(1) for depth in curve.depths]
        facts["draft"] = {"name": partner.name, "token": ratios}
    return facts


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
    if found["costs"]:
        _print_costs(found["costs"], found["draft"])
    click.echo(
        f"from now on: {found['n_threads_batch']} threads for prefill, {found['n_threads']} for decode", err=True
    )


def _print_costs(costs: dict[str, Any], draft: dict[str, Any] | None) -> None:
    from rich.table import Table

    from edgeinfer.cli.progress import stdout

    table = Table(title="what a pass costs, in passes of one token", title_justify="left")
    table.add_column("tokens")
    for depth in costs["depths"]:
        table.add_column(f"after {depth}", justify="right")
    for n in costs["v"][0]:
        table.add_row(f"v({n})", *(f"{growth[n]:.2f}" for growth in costs["v"]))
    if draft:
        table.add_section()
        table.add_row(f"1 of {draft['name']}", *(f"{ratio:.2f}" for ratio in draft["token"]))
    stdout().print(table)
