"""``edgeinfer bench --kernels``: how fast our kernels are here, as a table and as JSON. Needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeinfer.cli.progress import status

if TYPE_CHECKING:
    from edgeinfer.kernels.measure import Figure, Report

__all__ = ["measured", "show"]


def measured(formats: Sequence[str], isas: Sequence[str], n_threads: int | None) -> Report:
    """Everything, or what these formats and instruction sets leave of it."""
    from edgeinfer import device
    from edgeinfer.kernels.measure import measure

    with status("measuring") as said:
        return measure(n_threads=n_threads or device.default_threads(), formats=formats, isas=isas, said=said)


def show(report: Report) -> None:
    """A table for each instruction set, plainest first."""
    from edgeinfer import __version__
    from edgeinfer.cli.progress import stdout

    console = stdout()
    peaks = ", ".join(f"{isa} {ops / 1e9:.0f}" for isa, ops in report.int8_ops_per_s.items())
    console.print(f"edgeinfer {__version__}, threads: {report.n_threads} (quantize: 1)")
    console.print(f"memory bandwidth: {report.read_bytes_per_s / 1e9:.1f} GB/s")
    console.print(f"int8 peak in GOPS: {peaks or 'not measured'}")
    for isa in dict.fromkeys(figure.isa for figure in report.figures):
        console.print(_table(isa, [figure for figure in report.figures if figure.isa == isa]))
    console.print("GB/s: of weights, of keys and values, or of the floats that are quantized")
    console.print("-: no such limit, or no probe for it: floats and attention compute in single precision,")
    console.print("   and quantize works in the caches")


def _table(isa: str, figures: Sequence[Figure]) -> Any:
    from rich.table import Table

    table = Table(title=isa, title_justify="left")
    for heading in ("op", "format"):
        table.add_column(heading)
    for heading in ("M", "GB/s", "of bandwidth", "GOPS", "of int8 peak"):
        table.add_column(heading, justify="right")
    shown: tuple[str, str] | None = None
    for figure in figures:
        case = (figure.op, figure.format)
        if shown is not None and case != shown:
            table.add_section()
        names = ("", "") if case == shown else case
        ops = "-" if figure.ops_per_s is None else f"{figure.ops_per_s / 1e9:.1f}"
        rates = (f"{figure.bytes_per_s / 1e9:.1f}", percent(figure.bandwidth_share), ops, percent(figure.peak_share))
        table.add_row(*names, str(figure.m), *rates)
        shown = case
    return table


def percent(share: float | None) -> str:
    """``0.834`` -> ``83 %``; of what has no limit, ``-``."""
    return "-" if share is None else f"{100 * share:.0f} %"
