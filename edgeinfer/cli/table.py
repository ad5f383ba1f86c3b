"""A table on standard output: boxed on a terminal, aligned columns elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import click

from edgeinfer.text.printable import printable

__all__ = ["print_table"]


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, boxed: bool) -> None:
    """``boxed`` where a person looks. Cells come out printable, whatever is in them."""
    cells = [tuple(printable(str(cell)) for cell in row) for row in rows]
    if boxed:
        from rich.table import Table
        from rich.text import Text

        from edgeinfer.cli.progress import stdout

        table = Table()
        for heading in headings:
            table.add_column(heading, overflow="fold")  # a name or a path is never cut
        for row in cells:
            table.add_row(*map(Text, row))
        stdout().print(table)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in (tuple(headings), *cells):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
