"""``edgeinfer evaluate``: what builds of a model are worth, several in one table, with gates for CI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.flags import Command, flag
from edgeinfer.cli.options import THREADS, debug_flag, json_flag
from edgeinfer.cli.reporting import TEXT_FILE, output_file

if TYPE_CHECKING:
    from edgeinfer.evaluate import Plan, Row

__all__ = ["command"]

_ON, _OUT = "What they are examined on", "Output"


@click.command("evaluate", cls=Command)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@flag("--against", metavar="REF", section=_ON, help="The reference that the others' divergence is taken from.")
@flag("--text", type=TEXT_FILE, metavar="FILE", section=_ON, help="A text of yours.  [default: one that comes with us]")
@flag(
    "--positions",
    type=click.IntRange(min=2),
    default=2048,
    metavar="N",
    section=_ON,
    show_default=True,
    help="At most so many tokens of the text.",
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
    "--tasks",
    default="facts,arithmetic,code",
    metavar="LIST",
    section=_ON,
    show_default=True,
    help="Sets of questions, or none.",
)
@flag(
    "--gate",
    "gates",
    multiple=True,
    metavar="KEY=X",
    section=_OUT,
    help="Exit with 1 unless every model keeps this, for example max-kl=0.02; may be repeated.",
)
@flag("--html", type=output_file(".html", ".htm"), metavar="FILE", section=_OUT, help="Write the table and plots.")
@flag("--png", type=output_file(".png"), metavar="FILE", section=_OUT, help="Write the plots (needs matplotlib).")
@flag("--markdown", is_flag=True, section=_OUT, help="The table as Markdown.")
@flag("-t", "--threads", type=THREADS, metavar="N", help="Threads of all.  [default: as tuned]")
@flag("--memory", metavar="SIZE", help="Use no more than this, for example 2G.")
@json_flag
@debug_flag
def command(**flags: Any) -> None:
    """Examine models: perplexity of a text, KL divergence from a reference, small tasks, size, speed and memory.

    Each is MODEL[@key=value,…], as for `verify`. Gates: max-kl, max-kl-median, max-kl-p99, min-agreement and max-ratio
    (all with --against), max-perplexity, min-facts, min-arithmetic, min-code, max-size, max-bits, min-prefill,
    min-decode, max-memory. Speeds are the best of three and depend on the machine: compare those of one run.
    """
    import json

    from edgeinfer.cli.reporting import write
    from edgeinfer.errors import CheckFailed
    from edgeinfer.evaluate import SETS, Gate
    from edgeinfer.evaluate.plot import evaluate_page, picture
    from edgeinfer.evaluate.report import as_document, check_gates, failures

    names = _task_names(flags["tasks"])
    gates = [Gate.parse(text) for text in flags["gates"]]
    check_gates(gates, has_reference=flags["against"] is not None, tasks=names)
    if flags["png"] is not None:
        picture([])  # says now if it cannot
    plan, source = _plan(flags, names)
    rows = _measured(flags, plan)
    if flags["html"] is not None:
        write(flags["html"], evaluate_page(rows, f"Text: {source}, windows of {plan.scope.n_window} tokens."))
    if flags["png"] is not None:
        write(flags["png"], picture(rows))
    failed = failures(rows, gates)
    if flags["as_json"]:
        sets = {name: {"source": SETS[name].source, "licence": SETS[name].licence} for name in names}
        found = {"models": as_document(rows), "text": source, "tasks": sets, "failed": failed, "passed": not failed}
        click.echo(json.dumps(found))
    else:
        _show(rows, markdown=flags["markdown"])
    if failed:
        raise CheckFailed("; ".join(failed))


def _task_names(text: str) -> list[str]:
    from edgeinfer.errors import UsageError
    from edgeinfer.evaluate import SETS

    names = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in SETS:
            raise UsageError(f"no set of tasks {name!r}; there are: {', '.join(SETS)}, none")
    return list(dict.fromkeys(names))


def _plan(flags: dict[str, Any], names: list[str]) -> tuple[Plan, str]:
    """The plan, and what the text is called."""
    from edgeinfer.cli.options import read_text
    from edgeinfer.cli.reporting import MOST_TEXT_BYTES
    from edgeinfer.evaluate import Plan, questions
    from edgeinfer.verify import Scope, shipped_text

    text = read_text(flags["text"], "text", MOST_TEXT_BYTES) if flags["text"] else shipped_text()
    scope = Scope(text, n_positions=flags["positions"], n_window=flags["window"])
    return Plan(scope, {name: questions(name) for name in names}), str(flags["text"] or "shipped")


def _measured(flags: dict[str, Any], plan: Plan) -> list[Row]:
    from edgeinfer.cli.loading import attended, fetch, notice
    from edgeinfer.cli.progress import bar
    from edgeinfer.evaluate import evaluate
    from edgeinfer.side import Side

    def side(text: str) -> Side:
        return Side.parse(text, threads=flags["threads"], parallel=1)

    models = [side(text) for text in flags["models"]]
    reference = side(flags["against"]) if flags["against"] is not None else None
    for one in [*models, *([reference] if reference else [])]:
        fetch(one.model)
    with bar() as said:
        rows = attended(
            lambda: evaluate(models, plan, reference, memory=flags["memory"], said=said), "edgeinfer-evaluate"
        )
    for row in rows:
        for line in row.notices:
            notice(f"{row.label}: {line}")
    if any(row.divergence is not None and not row.divergence.exact for row in rows):
        notice("the reference's logits were kept in half precision, which moves a divergence by some 1e-6")
    return rows


def _show(rows: list[Row], *, markdown: bool) -> None:
    import sys

    from edgeinfer.cli.table import print_table
    from edgeinfer.evaluate.report import cells, headings
    from edgeinfer.text.printable import printable

    if not markdown:
        print_table(headings(rows), [cells(row, rows) for row in rows], boxed=sys.stdout.isatty())
        return
    lines = [headings(rows), ["---", *["---:"] * (len(headings(rows)) - 1)], *(cells(row, rows) for row in rows)]
    for line in lines:
        click.echo("| " + " | ".join(printable(cell).replace("|", "\\|") for cell in line) + " |")
