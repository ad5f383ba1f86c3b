"""Offline batch jobs: many rows through one model, on disk as they are done, gone on with after anything.

    import edgeinfer
    from edgeinfer import batch

    with edgeinfer.LLM("qwen2.5-coder-1.5b", n_parallel=16) as llm:
        report = batch.run("in.jsonl", llm, "out.jsonl", max_tokens=128, temperature=0.0)

Called again with the same arguments, after a crash or a kill, it computes what is missing and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from edgeinfer.batch import order as ordering
from edgeinfer.batch.compute import Computer, LocalComputer, Outcome
from edgeinfer.batch.journal import WriteError
from edgeinfer.batch.ledger import Ledger, recover
from edgeinfer.batch.manifest import agree
from edgeinfer.batch.outputs import Outputs
from edgeinfer.batch.plain_form import PlainJob
from edgeinfer.batch.progress import Progress, Watch
from edgeinfer.batch.reading import job_for
from edgeinfer.batch.rows import Computed, Row, RowError
from edgeinfer.batch.runner import Report, Run, Selection
from edgeinfer.batch.sources import open_source
from edgeinfer.batch.template import PromptTemplate
from edgeinfer.errors import UsageError
from edgeinfer.llm import LLM

__all__ = [
    "Computed",
    "Computer",
    "LocalComputer",
    "Order",
    "Outcome",
    "Outputs",
    "Progress",
    "Report",
    "Row",
    "RowError",
    "Rows",
    "WriteError",
    "run",
]

Order = Literal["done", "input"]
Rows = str | Path | Iterable[str | Mapping[str, Any]]


def run(
    rows: Rows,
    llm: LLM | Computer,
    out: str | Path,
    *,
    prompt_template: str | None = None,
    system: str | None = None,
    raw: bool = False,
    order: Order = "done",
    limit: int | None = None,
    sample: int | None = None,
    max_attempts: int = 3,
    retry_failed: bool = False,
    restart: bool = False,
    settings: Mapping[str, Any] | None = None,
    watch: Watch = lambda _progress: None,
    said: Callable[[str], None] = lambda _line: None,
    most_s: float | None = None,
    **options: Any,
) -> Report:
    """Answer all ``rows`` and write their results to ``out``, a line each, as they come.

    ``rows``: the path of a file (OpenAI batch lines or plain JSON lines; ``.csv``; ``.parquet``), or mappings of the
    same form, or texts; they are read one after the other, so a generator may yield more than memory holds. ``llm``: an
    open model, or whoever else computes rows. ``options``: the fields of `SamplingParams`, for rows that say nothing
    themselves; a seed that nobody gives follows from the row. A prompt goes through the chat template, after
    ``system`` if that is given; ``raw`` continues it as it stands. ``prompt_template`` makes prompts of columns:
    ``"Summarise: {text}"``.

    Rows that cannot be computed, or failed ``max_attempts`` times, are in ``out.errors.jsonl`` with line and reason;
    they are not tried again unless ``retry_failed``. ``order`` ``"input"`` sorts the finished output. ``limit`` and
    ``sample`` take the first rows, or some at random; a later run can go on with all. ``restart`` forgets what earlier
    runs did. ``settings``: what else results depend on, for the manifest. ``watch`` hears how far the job is, ``said``
    lines for whoever watches. ``most_s``: no row is begun later than that.

    Raises `UsageError` for a job that cannot be, has changed, or is being worked on; `FormatError` for files that are
    not ours; `WriteError` where the disk is full; `KeyboardInterrupt` as it comes; and whatever ends the model. After
    any of them the same call goes on where this one stopped."""
    if order not in ("done", "input"):
        raise UsageError(f"order is {order!r}, but must be done or input")
    if max_attempts < 1:
        raise UsageError(f"max_attempts is {max_attempts}, but must be at least 1")
    outputs = Outputs.of(out)
    outputs.refuse_input(rows)
    template = PromptTemplate(prompt_template) if prompt_template is not None else None
    selection = Selection(limit, sample)
    with outputs.held():
        outputs.prepare(restart=restart, retry_failed=False)
        source = open_source(rows)
        job = job_for(source, PlainJob(template, system, raw), options)
        computer = LocalComputer(llm) if isinstance(llm, LLM) else llm
        parameters = {**job.facts(), **(settings or {})}
        facts = {"input": source.facts(), "parameters": parameters, **computer.facts()}
        agree(outputs.manifest, facts)
        outputs.prepare(restart=False, retry_failed=retry_failed)
        ledger = Ledger()
        recover(outputs.results, ledger, failed=False, said=said)
        recover(outputs.errors, ledger, failed=True, said=said)
        work = Run(
            source,
            job,
            computer,
            outputs,
            ledger,
            facts=facts,
            selection=selection,
            max_attempts=max_attempts,
            watch=watch,
            said=said,
            most_s=most_s,
        )
        report = work.go()
        if order == "input" and report.complete:
            ordering.restore(outputs.results)
            ordering.restore(outputs.errors)
    return report
