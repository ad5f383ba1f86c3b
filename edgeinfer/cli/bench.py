"""``edgeinfer bench``: what a model costs on this machine, as a table and as the fields that comparisons read.

With ``--kernels`` it is `edgeinfer.cli.bench_kernels`: what our kernels do on this machine, without a model; with
``--prompts`` `edgeinfer.cli.bench_prompts`: what drafts win on given prompts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.flags import Command, flag
from edgeinfer.cli.options import THREADS, debug_flag, device_flags, draft_flag, json_flag, kernels_flag, model_flag
from edgeinfer.cli.progress import status
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.engines.base import KVType

__all__ = ["command"]

_KERNELS, _PROMPTS = "Kernels", "Prompts"
_QUESTION = "Explain in a few sentences what a hash table is and when it is a bad choice."


@click.command("bench", cls=Command)
@model_flag
@kernels_flag
@flag("-t", "--threads", type=THREADS, metavar="N", help="Threads for everything.  [default: as tuned]")
@flag(
    "--n-past",
    type=click.IntRange(min=1),
    default=512,
    metavar="N",
    show_default=True,
    help="Tokens in the cache while passes of 1 to 16 tokens are timed.",
)
@flag(
    "--kv-type",
    type=click.Choice(["f16", "q8_0"]),
    default="f16",
    show_default=True,
    help="Type of the KV cache that passes and steps are timed with.",
)
@flag(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=2),
    default=64,
    metavar="N",
    show_default=True,
    help="Tokens of an answer that is timed end to end.",
)
@flag(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    envvar="EDGEINFER_BENCH_PROMPTS",
    show_envvar=True,
    section=_PROMPTS,
    help="Answer each of these with and without drafts in turn; a line is {'id', 'kind', 'prompt'} as JSON.",
)
@flag(
    "--parallel",
    type=click.IntRange(2, 256),
    metavar="N",
    envvar="EDGEINFER_BENCH_PARALLEL",
    show_envvar=True,
    section=_PROMPTS,
    help="With --prompts: afterwards all of them again, N at once.",
)
@draft_flag
@device_flags
@flag(
    "--kernels",
    is_flag=True,
    envvar="EDGEINFER_BENCH_KERNELS",  # EDGEINFER_KERNELS says which library to load
    show_envvar=True,
    section=_KERNELS,
    help="No model: our kernels, each next to what this machine can do at most. About a minute.",
)
@flag(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME",
    envvar="EDGEINFER_BENCH_FORMAT",
    show_envvar=True,
    section=_KERNELS,
    help="With --kernels: only this format, e.g. Q4_K; may be repeated.",
)
@flag(
    "--isa",
    "isas",
    multiple=True,
    metavar="NAME",
    envvar="EDGEINFER_BENCH_ISA",
    show_envvar=True,
    section=_KERNELS,
    help="With --kernels: only this instruction set, e.g. avx2; may be repeated.",
)
@json_flag
@debug_flag
def command(
    model: str | None,
    no_kernels: bool,
    threads: int | None,
    n_past: int,
    kv_type: KVType,
    max_tokens: int,
    prompts: Path | None,
    parallel: int | None,
    draft: str,
    device: str,
    require: str | None,
    kernels: bool,
    formats: tuple[str, ...],
    isas: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure prefill, decode, small batches, and one whole answer; with --prompts what drafts win; or, without a
    model, our kernels.

    Absolute figures change with whatever else the machine does: compare ratios of runs made in turn.
    """
    import json

    if prompts is not None and kernels:
        raise UsageError("--kernels needs no model and --prompts does; give one of them")
    if parallel is not None and prompts is None:
        raise UsageError("--parallel says how many prompts to answer at once; give --prompts FILE with it")
    if kernels:
        from edgeinfer.cli import bench_kernels

        report = bench_kernels.measured(formats, isas, threads)
        if as_json:
            click.echo(json.dumps(report.as_dict()))
        else:
            bench_kernels.show(report)
        return
    if formats or isas:
        raise UsageError("--format and --isa say which kernels to measure; give --kernels with them")
    how = {"kernels": not no_kernels, "n_threads": threads, "device": device, "require": require or ""}
    if prompts is not None:
        from edgeinfer.cli import bench_prompts

        arguments = {"draft": draft, "n_threads_batch": threads, **how}
        measured = bench_prompts.measured(prompts, model, arguments, max_tokens, parallel)
        if as_json:
            click.echo(json.dumps(measured))
        else:
            bench_prompts.show(measured)
        return
    found = _run(model, how, n_past, kv_type, max_tokens)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)


def _run(model: str | None, how: dict[str, Any], n_past: int, kv_type: KVType, max_tokens: int) -> dict[str, Any]:
    """``how``: arguments of `LLM` that are fields of `EngineConfig` too."""
    import dataclasses

    import psutil

    from edgeinfer import bench, catalog, described, memory
    from edgeinfer.cli.loading import notice
    from edgeinfer.cli.pulling import download_progress
    from edgeinfer.engines import open_engine
    from edgeinfer.opening import about_kernels, completed, with_device_kernels

    started = psutil.Process().create_time()
    with download_progress() as progress:
        local = catalog.ensure(model or catalog.DEFAULT_MODEL, progress=progress)
    file = described.read(local.path)
    info = described.info(file, name=local.name)
    wanted = dataclasses.replace(bench.bench_config(n_past, kv_type), **how | {"n_threads": how["n_threads"] or 0})
    config, _ = completed(with_device_kernels(file, wanted), info)
    memory.check(file, config, cap_bytes=None)
    report, covered = about_kernels(file, config)
    runtime = {"llamacpp": "llama.cpp", "onnx": "ONNX Runtime"}[described.engine_of(file)]
    engine = open_engine(described.engine_of(file), local.path, config)
    placement = getattr(engine, "placement", None)
    if placement is not None:
        notice(placement.line)
    try:
        with status("measuring") as said:
            bench.first_logits(engine)
            load_s = time.time() - started
            measured = bench.measure(
                engine, f"edgeinfer {runtime}", n_past=n_past, n_threads=config.n_threads, said=said
            )
            peak = bench.peak_rss_bytes()
    finally:
        engine.close()
    with status("measuring an answer end to end"):
        arguments = how | {"n_threads": config.n_threads}
        whole = bench.end_to_end(str(local.path), _QUESTION, max_tokens, **arguments)
    with status("measuring the machine's limits"):
        share = bench.shares(file, measured)
    return {
        "model": local.name,
        **measured.as_dict(),
        "kv_type": kv_type,
        "device": config.device,
        "placement": placement.as_dict() if placement else None,
        "kernels": dataclasses.asdict(report),
        "same_answers": covered.same_answers,
        "share": share.as_dict() if share else None,
        "load_s": load_s,
        "peak_rss_bytes": peak,
        "end_to_end": whole.as_dict(),
    }


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    from edgeinfer.cli.bench_kernels import percent
    from edgeinfer.cli.progress import stdout

    whole = found["end_to_end"]
    one = found["verify_ms"][1]
    table = Table(title=f"{found['model']}: {found['engine']}, {found['n_threads']} threads", title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    table.add_row("prefill", f"{found['prefill_tps']:.1f} tokens/s", "512 tokens into an empty cache")
    table.add_row("decode", f"{found['decode_tps']:.1f} tokens/s", f"one token at {found['n_past']}")
    if found["share"]:
        prefill, decode = (percent(found["share"][name]) for name in ("prefill_int8", "decode_bandwidth"))
        table.add_row("prefill's share", prefill, "of the machine's int8 peak, by products alone")
        table.add_row("decode's share", decode, "of the machine's read bandwidth, by weights alone")
    for m, ms in found["verify_ms"].items():
        table.add_row(f"v({m})", f"{ms / one:.2f}", f"{ms:.1f} ms for {m} tokens in one pass")
    together = "all together in one pass"
    if not found["same_answers"]:
        together += "; LLM computes them apart, so that answers agree"
    for b, tps in found["batch_tps"].items():
        table.add_row(f"{b} sequences", f"{tps:.1f} tokens/s", together)
    table.add_row(
        "first token", f"{1e3 * whole['ttft_s']:.0f} ms", f"of a prompt of {whole['n_prompt']} tokens, end to end"
    )
    table.add_row("answer", f"{whole['decode_tps']:.1f} tokens/s", "tokenizing, sampling and text included")
    table.add_row("between tokens", f"{whole['p50_ms']:.1f} ms", f"median; 95 %: {whole['p95_ms']:.1f} ms")
    kernels = found["kernels"]
    table.add_row("kernels", kernels["isa"] or found["engine"].removeprefix("edgeinfer "), kernels["why"] or "ours")
    table.add_row("load", f"{found['load_s']:.2f} s", "process start to first logits")
    table.add_row("peak memory", f"{found['peak_rss_bytes'] / 2**20:.0f} MiB", "resident")
    stdout().print(table)
