"""``edgeinfer bench --prompts``: what drafts win on given prompts, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.cli.progress import status

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["measured", "show"]

_MOST_BYTES = 64 << 20


def measured(
    file: Path, model: str | None, arguments: Mapping[str, Any], max_tokens: int, parallel: int | None
) -> dict[str, Any]:
    """Answer the prompts in ``file`` with and without drafts. ``arguments`` are those of `LLM`. Raises `UsageError`
    for what is in the file, and as `LLM` and `LLM.stream`."""
    from edgeinfer import bench_prompts as bench
    from edgeinfer.cli.loading import open_llm
    from edgeinfer.cli.options import read_text

    prompts = bench.parse(read_text(file, "prompts", _MOST_BYTES), str(file))
    with open_llm(model, arguments, spinner=True) as llm:
        name = llm.info.name
        with status("measuring") as said:
            found = bench.compare(llm, prompts, max_tokens, said)
        n_ctx = min(llm.n_ctx, bench.context_needed(llm, prompts, max_tokens))
    document = {"model": name, "draft": arguments["draft"], "max_tokens": max_tokens, **bench.report(found)}
    if parallel is not None:  # opened anew: the first has the memory of one
        more = {**arguments, "n_parallel": parallel, "n_ctx": n_ctx}
        with open_llm(model, more, spinner=True) as llm, status("measuring") as said:
            document["parallel"] = bench.compare_together(llm, prompts, parallel, max_tokens, said).as_dict()
    return document


def show(found: Mapping[str, Any]) -> None:
    """A table of prompts, one of kinds, and a line for many at once."""
    from edgeinfer.cli.progress import stdout

    console = stdout()
    console.print(_prompts(found))
    console.print(_kinds(found))
    together = found.get("parallel")
    if together:
        console.print(
            f"{together['n']} at once: {together['plain_tps']:.1f} tokens/s without drafts, "
            f"{together['draft_tps']:.1f} with: {together['speedup']:.2f} times as many; "
            f"same answers: {'yes' if together['identical'] else 'no'}"
        )


def _prompts(found: Mapping[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from edgeinfer.text.printable import printable

    title = f"{found['model']}: tokens per second without drafts and with (--draft {found['draft']})"
    table = Table(title=escape(printable(title)), title_justify="left")
    for heading in ("prompt", "kind"):
        table.add_column(heading)
    for heading in ("without", "with", "speedup", "drafted", "accepted", "same answer"):
        table.add_column(heading, justify="right")
    for row in found["prompts"]:
        same = "yes" if row["identical"] else f"no, from token {row['first_difference'] + 1}"
        rates = (f"{row['plain_tps']:.1f}", f"{row['draft_tps']:.1f}", f"{row['speedup']:.2f}")
        names = (escape(printable(row["id"])), escape(printable(row["kind"])))
        table.add_row(*names, *rates, str(row["drafted"]), str(row["accepted"]), same)
    return table


def _kinds(found: Mapping[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from edgeinfer.text.printable import printable

    table = Table(title="speedup by kind (geometric means)", title_justify="left")
    table.add_column("kind")
    table.add_column("speedup", justify="right")
    for kind, speedup in found["by_kind"].items():
        table.add_row(escape(printable(kind)), f"{speedup:.2f}")
    table.add_section()
    table.add_row("all kinds", f"{found['geomean']:.2f}")
    return table
