"""What a job would take, told from a sample of its rows that is really computed. Nothing of the job is written."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeinfer.batch import run
from edgeinfer.batch.compute import Computer
from edgeinfer.batch.plain_form import PlainJob
from edgeinfer.batch.progress import Watch
from edgeinfer.batch.reading import Job, job_for
from edgeinfer.batch.rows import RowError
from edgeinfer.batch.runner import Report
from edgeinfer.batch.sources import Source, open_source
from edgeinfer.batch.template import PromptTemplate
from edgeinfer.errors import UsageError

__all__ = ["Estimate", "estimate"]

_SAMPLE_S = 60.0
_LEAST_SAMPLE = 16
_N_SHOWN = 5
_WAVES = 4  # of all places: one to fill them, one to empty them, two to measure


@dataclass(frozen=True, slots=True)
class Estimate:
    """``n_rows`` of which ``n_bad`` cannot even be read. Tokens, hours and energy of all that can, as ``n_sampled`` of
    them say. ``energy_wh`` is that of the whole processor; None where the machine does not tell, and why."""

    n_rows: int
    n_bad: int
    n_sampled: int
    n_prompt: int
    n_prefilled: int
    n_generated: int
    hours: float
    energy_wh: float | None
    energy_why_not: str | None
    n_places: int
    first_problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "first_problems": list(self.first_problems)}


def estimate(
    path: Path,
    computer: Computer,
    *,
    prompt_template: str | None,
    system: str | None,
    raw: bool,
    limit: int | None,
    sample: int | None,
    watch: Watch,
    options: Mapping[str, Any],
) -> Estimate:
    """Compute ``sample`` rows (default: some for each place) for a minute at most, and multiply. Raises as
    `edgeinfer.batch.run`, and `UsageError` where no row of the sample can be computed."""
    source = open_source(path)
    template = PromptTemplate(prompt_template) if prompt_template is not None else None
    job = job_for(source, PlainJob(template, system, raw), options)
    n_rows, n_bad, problems = _looked_over(source, job, limit)
    n_sample = sample or max(_LEAST_SAMPLE, _WAVES * computer.n_places)
    with tempfile.TemporaryDirectory(prefix="edgeinfer-") as folder:
        report = run(
            path,
            computer,
            Path(folder) / "sample.jsonl",
            prompt_template=prompt_template,
            system=system,
            raw=raw,
            limit=limit,
            sample=n_sample,
            watch=watch,
            most_s=_SAMPLE_S,
            **options,
        )
        ends = _ends(Path(report.metrics))
    if not ends:
        raise UsageError("; ".join(["no row of the sample could be computed", *problems[:1]]))
    return _scaled(report, n_rows, n_bad, ends, problems)


def _looked_over(source: Source, job: Job, limit: int | None) -> tuple[int, int, list[str]]:
    """(rows, how many of them are bad, what is wrong with the first of these)"""
    n_rows, n_bad, problems = 0, 0, list[str]()
    for row in itertools.islice(source.rows(), limit):
        n_rows += 1
        try:
            job.read(row)
        except RowError as error:
            n_bad += 1
            if len(problems) < _N_SHOWN:
                problems.append(f"line {row.line}: {error}")
    return n_rows, n_bad, problems


def _ends(metrics: Path) -> list[float]:
    """When each row of the sample that has a result ended."""
    with metrics.open(encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream]
    return sorted(line["t"] for line in lines if line["kind"] == "row" and "error" not in line)


def _scaled(report: Report, n_rows: int, n_bad: int, ends: list[float], problems: list[str]) -> Estimate:
    share = (n_rows - n_bad) / len(ends)
    n, places = len(ends), report.n_places
    seconds = report.seconds / n
    if n >= 3 * places:  # the pace while all places were busy: filling and emptying them happens once in a job
        seconds = (ends[n - places - 1] - ends[places - 1]) / (n - 2 * places)
    energy = None if report.energy_j is None else share * report.energy_j / 3600
    return Estimate(
        n_rows=n_rows,
        n_bad=n_bad,
        n_sampled=n,
        n_prompt=round(share * report.n_prompt),
        n_prefilled=round(share * report.n_prefilled),
        n_generated=round(share * report.n_generated),
        hours=seconds * (n_rows - n_bad) / 3600,
        energy_wh=energy,
        energy_why_not=report.energy_why_not,
        n_places=places,
        first_problems=tuple(problems),
    )
