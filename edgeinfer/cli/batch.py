"""``edgeinfer batch``: a file of rows in, a file of results out, gone on with after anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli import batch_where, options
from edgeinfer.cli.flags import Command, flag
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.batch import Progress, Report
    from edgeinfer.batch.compute import Remote
    from edgeinfer.llm import LLM

__all__ = ["command"]

_JOB, _SERVER = "Job", "A server instead of a model"
_FAILED_ROWS = 6


class _Command(Command):
    """``--engine`` has one more word here than elsewhere."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            if isinstance(param, click.Option) and param.name == "engine" and isinstance(param.type, click.Choice):
                param.type = click.Choice([*param.type.choices, "ray"])
                param.help = f"{param.help} ray: a model on each machine of the Ray cluster that this one belongs to."


@click.command("batch", cls=_Command)
@flag(
    "-i",
    "--input",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    section=_JOB,
    help="Rows: OpenAI batch lines, plain JSON lines, .csv or .parquet.",
)
@flag(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    section=_JOB,
    help="Results, a JSON line a row; beside it .errors.jsonl, .manifest.json and .metrics.jsonl.",
)
@flag(
    "--prompt-template",
    metavar="TEXT",
    section=_JOB,
    help="Make prompts of columns: 'Summarise: {text}'.  [default: the column prompt]",
)
@flag("-sys", "--system", metavar="TEXT", section=_JOB, help="System message for rows that bring none.")
@flag("--raw", is_flag=True, section=_JOB, help="Continue plain prompts as they stand: no chat template.")
@flag(
    "--order",
    type=click.Choice(["done", "input"]),
    default="done",
    show_default=True,
    section=_JOB,
    help="Order of the finished output; until then rows are written as they are done.",
)
@flag("--limit", type=click.IntRange(min=1), metavar="N", section=_JOB, help="Only the first N rows.")
@flag("--sample", type=click.IntRange(min=1), metavar="N", section=_JOB, help="Only N rows at random.")
@flag(
    "--dry-run", is_flag=True, section=_JOB, help="Compute a sample, write nothing: tokens, hours, energy of all rows."
)
@flag(
    "--parallel",
    type=click.IntRange(1, 240),
    metavar="N",
    envvar="EDGEINFER_BATCH_PARALLEL",
    show_envvar=True,
    section=_JOB,
    help="Rows computed at once.  [default: as many as memory has room for, up to 16]",
)
@flag(
    "--max-attempts",
    type=click.IntRange(min=1),
    default=3,
    metavar="N",
    show_default=True,
    section=_JOB,
    help="Try a row so often before it goes to the errors.",
)
@flag("--retry-failed", is_flag=True, section=_JOB, help="Try rows again that are among the errors.")
@flag("--restart", is_flag=True, section=_JOB, help="Throw away what earlier runs wrote, and start anew.")
@flag(
    "--endpoint", metavar="URL", section=_SERVER, help="Ask this OpenAI-compatible server, such as http://host:8000/v1."
)
@flag(
    "--concurrency",
    type=click.IntRange(1, 1024),
    default=16,
    metavar="N",
    show_default=True,
    section=_SERVER,
    help="Rows that the server is asked at once.",
)
@flag(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    section=_SERVER,
    help="Its first line is the server's key.  [default: EDGEINFER_API_KEY]",
)
@flag(
    "--timeout",
    type=click.FloatRange(0, 86400, min_open=True),
    default=600.0,
    metavar="S",
    show_default=True,
    section=_SERVER,
    help="Seconds that one answer may take.",
)
@options.model_flags
@options.sampling_flags
@options.json_flag
@options.debug_flag
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Answer many rows with one model.

    Each result is on disk when it is done. The same command again goes on where the last one stopped, whatever stopped
    it; a row never has two results. Rows that cannot be computed are in OUTPUT.errors.jsonl, with line and reason.

    \b
      edgeinfer batch -i in.jsonl -o out.jsonl -m qwen2.5-coder-1.5b --temp 0
      edgeinfer batch -i reviews.csv -o out.jsonl --prompt-template "Sentiment of: {text}" --json-schema s.json
      edgeinfer batch -i in.jsonl --dry-run
      edgeinfer batch -i in.jsonl -o out.jsonl --endpoint http://127.0.0.1:8000/v1 --concurrency 32
      edgeinfer batch -i in.jsonl -o out.jsonl -m qwen2.5-coder-1.5b --engine ray
    """
    if flags["output"] is None and not flags["dry_run"]:
        raise UsageError("give an output with -o FILE, or --dry-run for an estimate")
    batch_where.check(ctx, flags)
    sampling = batch_where.sampling(ctx, flags)
    if not flags["dry_run"]:
        from edgeinfer.batch.outputs import Outputs

        Outputs.of(flags["output"]).refuse_input(flags["source"])
    with batch_where.opened(ctx, flags) as llm:
        return _estimate(flags, sampling, llm) if flags["dry_run"] else _run(flags, sampling, llm)


def _run(flags: Mapping[str, Any], sampling: Mapping[str, Any], llm: LLM | Remote) -> int:
    import json

    from edgeinfer import batch
    from edgeinfer.cli.batch_view import watching
    from edgeinfer.cli.loading import notice
    from edgeinfer.llm import LLM

    with watching() as view:
        if not isinstance(llm, LLM):
            llm.said = view.note
        try:
            report = batch.run(
                flags["source"],
                llm,
                flags["output"],
                prompt_template=flags["prompt_template"],
                system=flags["system"],
                raw=flags["raw"],
                order=flags["order"],
                limit=flags["limit"],
                sample=flags["sample"],
                max_attempts=flags["max_attempts"],
                retry_failed=flags["retry_failed"],
                restart=flags["restart"],
                settings=batch_where.settings(flags),
                watch=view.show,
                said=view.note,
                **sampling,
            )
        except BaseException as error:
            if view.last is not None and not isinstance(error, UsageError):
                # Where writing has failed, what was not on disk yet was taken back: nobody counts that again now.
                known = None if isinstance(error, batch.WriteError) else view.last
                view.note(_how_to_go_on(flags, known))
            raise
    _conclude(report, notice)
    if flags["as_json"]:
        click.echo(json.dumps(report.as_dict()))
    return _FAILED_ROWS if report.n_failed else 0


def _how_to_go_on(flags: Mapping[str, Any], now: Progress | None) -> str:
    without = " (without --restart)" if flags["restart"] else ""
    done = f"{now.n_done + now.n_failed} of {now.n_rows} rows are done and" if now else "what is done is"
    return f"{done} safe in {flags['output']}; run the same command again{without} to go on"


def _conclude(report: Report, notice: Any) -> None:
    if report.n_repeated:
        rows = "a row has" if report.n_repeated == 1 else f"{report.n_repeated} rows have"
        notice(f"{rows} a custom_id that another row has, too: tell them apart by their 'id'")
    before = f", {report.n_before} of them by earlier runs" if report.n_before else ""
    notice(
        f"{report.n_done} rows done, {report.n_failed} failed{before}; {report.generated_tps:.1f} tokens/s in "
        f"{report.seconds:.1f} s: {report.results}"
    )
    if report.n_failed:
        notice(f"why rows failed is in {report.errors}; --retry-failed tries them again")


def _estimate(flags: Mapping[str, Any], sampling: Mapping[str, Any], llm: LLM | Remote) -> int:
    import json

    from edgeinfer.batch.compute import LocalComputer
    from edgeinfer.batch.estimate import estimate
    from edgeinfer.cli.batch_view import print_estimate, watching
    from edgeinfer.llm import LLM

    with watching() as view:
        found = estimate(
            flags["source"],
            LocalComputer(llm) if isinstance(llm, LLM) else llm,
            prompt_template=flags["prompt_template"],
            system=flags["system"],
            raw=flags["raw"],
            limit=flags["limit"],
            sample=flags["sample"],
            watch=view.show,
            options=sampling,
        )
    if flags["as_json"]:
        click.echo(json.dumps(found.as_dict()))
    else:
        print_estimate(found)
    return 0
