"""``edgeinfer verify``: whether two models, formats, devices or kernels agree, as a table, JSON and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.flags import Command, flag
from edgeinfer.cli.options import THREADS, debug_flag, json_flag
from edgeinfer.cli.reporting import TEXT_FILE, limit, output_file

if TYPE_CHECKING:
    from edgeinfer.verify import Report, Scope

__all__ = ["command"]

_ON, _LIMITS = "What they are compared on", "Limits"


@click.command("verify", cls=Command)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@flag("--text", type=TEXT_FILE, metavar="FILE", section=_ON, help="A text of yours.  [default: one that comes with us]")
@flag(
    "--positions",
    type=click.IntRange(min=2),
    default=512,
    metavar="N",
    section=_ON,
    show_default=True,
    help="How many tokens of the text.",
)
@flag(
    "--window",
    type=click.IntRange(min=2),
    default=512,
    metavar="N",
    section=_ON,
    show_default=True,
    help="Tokens that are read before beginning with an empty context again.",
)
@flag(
    "--prompts",
    type=TEXT_FILE,
    metavar="FILE",
    envvar="EDGEINFER_VERIFY_PROMPTS",
    show_envvar=True,
    section=_ON,
    help="Prompts of yours for the greedy texts; a line is {'id', 'kind', 'prompt'} as JSON.",
)
@flag(
    "--n-prompts",
    type=click.IntRange(min=0),
    metavar="N",
    section=_ON,
    help="How many prompts are continued (0: none).  [default: 20, or all of --prompts]",
)
@flag(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    default=48,
    metavar="N",
    section=_ON,
    show_default=True,
    help="By how many tokens each.",
)
@flag(
    "--overlap",
    type=click.IntRange(min=1),
    default=10,
    metavar="K",
    section=_ON,
    show_default=True,
    help="Of how many likeliest tokens the overlap is told.",
)
@flag(
    "--max-kl",
    type=limit(),
    default="0.01",
    metavar="X|off",
    section=_LIMITS,
    show_default=True,
    help="Mean KL divergence from A, in nats.",
)
@flag(
    "--min-agreement",
    type=limit(1),
    default="0.9",
    metavar="X|off",
    section=_LIMITS,
    show_default=True,
    help="Share of positions where both find the same token likeliest.",
)
@flag(
    "--max-gap",
    type=limit(),
    default="0.05",
    metavar="X|off",
    section=_LIMITS,
    show_default=True,
    help="Greedy texts may part only where A's logits of the two tokens are this near.",
)
@flag("--html", type=output_file(".html", ".htm"), metavar="FILE", help="Write a page with a plot of KL by position.")
@flag("-t", "--threads", type=THREADS, metavar="N", help="Threads of both.  [default: as tuned]")
@flag("--memory", metavar="SIZE", help="Use no more than this, for example 2G.")
@json_flag
@debug_flag
def command(**flags: Any) -> None:
    """Hold model B against A, the reference: do they give the same logits and write the same texts?

    Each is MODEL[@key=value,…] with the keys engine, device, require, kernels (on or off), threads, threads_batch,
    kv_type and parallel, so that `verify M M@kernels=off` compares kernels. The models are open one after the other.
    Exit code 1 where a limit is not kept.
    """
    import json

    from edgeinfer.cli.reporting import write
    from edgeinfer.errors import CheckFailed
    from edgeinfer.verify.page import verify_page

    report = _measured(flags)
    if flags["html"] is not None:
        write(flags["html"], verify_page(report))
    if flags["as_json"]:
        click.echo(json.dumps({**report.as_dict(), "text": _text_name(flags["text"])}))
    else:
        _show(report)
    if not report.passed:
        labels = f"{report.b.label} does not agree with {report.a.label}"
        raise CheckFailed(f"{labels}: {'; '.join(fault.message for fault in report.faults)}")


def _measured(flags: dict[str, Any]) -> Report:
    from edgeinfer.cli.loading import attended, fetch, notice
    from edgeinfer.cli.progress import bar
    from edgeinfer.side import Side
    from edgeinfer.verify import Thresholds, verify

    a, b = (Side.parse(flags[name], threads=flags["threads"]) for name in ("a", "b"))
    scope = _scope(flags)
    limits = Thresholds(flags["max_kl"], flags["min_agreement"], flags["max_gap"])
    for side in (a, b):
        fetch(side.model)
    with bar() as said:
        report = attended(lambda: verify(a, b, scope, limits, memory=flags["memory"], said=said), "edgeinfer-verify")
    for side_facts in (report.a, report.b):
        for line in side_facts.notices:
            notice(f"{side_facts.label}: {line}")
    if sum(report.windows) < scope.n_positions:
        notice(f"the text has only {sum(report.windows)} of {scope.n_positions} positions")
    return report


def _scope(flags: dict[str, Any]) -> Scope:
    from edgeinfer.bench_prompts import parse
    from edgeinfer.cli.options import read_text
    from edgeinfer.cli.reporting import MOST_TEXT_BYTES
    from edgeinfer.verify import Scope, shipped_prompts, shipped_text

    text = read_text(flags["text"], "text", MOST_TEXT_BYTES) if flags["text"] else shipped_text()
    if flags["prompts"]:
        given = parse(read_text(flags["prompts"], "prompts", MOST_TEXT_BYTES), str(flags["prompts"]))
        prompts = tuple(one.prompt for one in given)
    else:
        prompts = shipped_prompts()
    n_prompts = flags["n_prompts"]
    if n_prompts is None:
        n_prompts = len(prompts) if flags["prompts"] else 20
    return Scope(text, prompts[:n_prompts], flags["positions"], flags["window"], flags["max_tokens"], flags["overlap"])


def _text_name(text: Path | None) -> str:
    return str(text) if text else "shipped"


def _show(report: Report) -> None:
    import sys

    from edgeinfer.cli.table import print_table
    from edgeinfer.verify.page import figures

    print_table(("figure", "value", "meaning"), figures(report), boxed=sys.stdout.isatty())
    for one in report.partings:
        kind = "tie" if one.tie else "no tie"
        choices = f"{one.choice_a!r} against {one.choice_b!r}"
        click.echo(f"prompt {one.prompt} parts after {one.token} tokens: {choices}, gap {one.gap_a:.3g} ({kind})")
    verdict = "they agree" if report.passed else "they do not agree"
    click.echo(f"{report.a.label} and {report.b.label}: {verdict}")
