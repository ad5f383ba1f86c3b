"""``edgeinfer report``: what batch jobs cost, from the metrics that they left; two of them compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.flags import Command, flag
from edgeinfer.cli.options import debug_flag, json_flag
from edgeinfer.cli.reporting import output_file

if TYPE_CHECKING:
    from edgeinfer.batch.reporting.figures import Figures
    from edgeinfer.batch.reporting.measured import Measured
    from edgeinfer.batch.reporting.noise import Comparison

__all__ = ["command"]

_COST, _OUT = "Cost", "Output"


@click.command("report", cls=Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@flag(
    "--watts",
    type=click.FloatRange(min=0),
    metavar="X",
    section=_COST,
    help="Power of the machine while it works.  [default: as the job has measured it]",
)
@flag("--price-kwh", type=click.FloatRange(min=0), metavar="X", section=_COST, help="Price of a kWh, in any currency.")
@flag("--html", type=output_file(".html", ".htm"), metavar="FILE", section=_OUT, help="Write tables and charts.")
@flag("--png", type=output_file(".png"), metavar="FILE", section=_OUT, help="Write the charts (needs matplotlib).")
@json_flag
@debug_flag
def command(**flags: Any) -> None:
    """Say what batch jobs cost: times of rows, tokens/s, memory, what drafts and known prompts saved, energy.

    RUN is the output of `edgeinfer batch`, or the .metrics.jsonl beside it; all runs of a job count together. Of
    several jobs each is compared with the first: ratios, and the bounds that noise leaves them. Times of a row count
    from when it was handed in, so that waiting for its turn is in them.

    \b
      edgeinfer report out.jsonl --watts 65 --price-kwh 0.30
      edgeinfer report before.jsonl after.jsonl --html report.html
    """
    import json

    from edgeinfer.batch.reporting.figures import Price, figures_of
    from edgeinfer.batch.reporting.noise import compared
    from edgeinfer.batch.reporting.shown import report_page, report_picture
    from edgeinfer.cli.loading import notice
    from edgeinfer.cli.reporting import write
    from edgeinfer.errors import UsageError

    runs = _read(flags["runs"])
    price = Price(flags["watts"], flags["price_kwh"])
    found = [figures_of(run, price) for run in runs]
    for one in found:
        if one.cost is None and flags["price_kwh"] is not None:
            raise UsageError(f"{one.label}: {one.cost_why_not}")
    against = [compared(runs[0], run) for run in runs[1:]]
    for run in runs:
        if run.torn is not None:
            notice(f"line {run.torn} of {run.path}, the last, has no end and is left out: the job died there, or runs")
    if flags["html"] is not None:
        write(flags["html"], report_page(runs, found, against))
    if flags["png"] is not None:
        write(flags["png"], report_picture(runs))
    if flags["as_json"]:
        told = {"runs": [one.as_dict() for one in found], "comparisons": [one.as_dict() for one in against]}
        click.echo(json.dumps(told))
    else:
        _show(found, against)


def _read(paths: tuple[Path, ...]) -> list[Measured]:
    """Jobs of the same name are told apart by their paths."""
    from edgeinfer.batch.reporting.measured import read

    runs = [read(path) for path in paths]
    labels = [run.label for run in runs]
    for run, path in zip(runs, paths, strict=True):
        if labels.count(run.label) > 1:
            run.label = str(path)
    return runs


def _show(found: list[Figures], against: list[Comparison]) -> None:
    import sys

    from edgeinfer.batch.reporting.shown import COMPARISON, comparison_lines, lines
    from edgeinfer.cli.table import print_table
    from edgeinfer.text.printable import printable

    boxed = sys.stdout.isatty()
    print_table(("", *(one.label for one in found)), lines(found), boxed=boxed)
    for why in sorted({one.cost_why_not for one in found if one.cost_why_not}):
        click.echo(f"\n{printable(why)}")
    for comparison in against:
        click.echo(f"\n{printable(comparison.run)} against {printable(comparison.baseline)}")
        print_table(COMPARISON, comparison_lines(comparison), boxed=boxed)
        if comparison.changed:
            click.echo(f"the jobs differ: {printable('; '.join(comparison.changed))}")
