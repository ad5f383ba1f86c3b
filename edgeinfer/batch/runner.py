"""One run of a job: rows in, rows computed, lines out. Everything that went well is on disk before it is counted, and
whatever ends the run leaves files that the next one goes on from."""

from __future__ import annotations

import contextlib
import json
import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from edgeinfer.batch import openai_form, plain_form
from edgeinfer.batch.compute import Computer
from edgeinfer.batch.energy import Meter
from edgeinfer.batch.grouping import grouped
from edgeinfer.batch.journal import Journal
from edgeinfer.batch.ledger import Ledger
from edgeinfer.batch.metrics import Metrics
from edgeinfer.batch.outputs import Outputs
from edgeinfer.batch.progress import Pace, Progress, Watch
from edgeinfer.batch.reading import Job
from edgeinfer.batch.rows import Computed, Raw, Row, RowError
from edgeinfer.batch.sources import Source
from edgeinfer.core import GenerationStats
from edgeinfer.errors import EdgeInferError, EngineError, TemplateError, UsageError

__all__ = ["Report", "Run", "Selection"]

_TICK_S = 0.25
_SECOND_S = 1.0
_COUNTS = ("n_prompt", "n_reused", "n_prefilled", "n_generated", "n_drafted", "n_accepted")
_MOST_FAULTS = 24
"""So many failures without one good row between them are not the rows' fault."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows: the first ``limit`` of them, and of these ``sample`` at random, the same ones each time. Not part of
    what a job is: one that was tried on a few rows can go on with all of them."""

    limit: int | None = None
    sample: int | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "sample"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least 1")

    def rows(self, n_rows: int | None) -> array[int] | range | None:
        """Their indexes in order; None for all, where nobody knows how many those are."""
        if n_rows is None:
            if self.sample is not None:
                raise UsageError("a sample needs rows that can be counted: a file, or a list")
            return None if self.limit is None else range(self.limit)
        among = range(min(n_rows, self.limit or n_rows))
        if self.sample is None or self.sample >= len(among):
            return among
        return array("q", sorted(random.Random(0).sample(among, self.sample)))


@dataclass(slots=True)
class Report:
    """What a run did. ``n_rows`` it was about, of which now ``n_done`` have a result and ``n_failed`` an error;
    ``n_before`` of both had it before. ``n_repeated``: rows whose custom_id another row has, too. Tokens are those of
    this run: of ``n_prompt`` tokens of prompts ``n_reused`` were known, ``n_prefilled`` computed. ``complete``: every
    row has a result or an error. ``energy_j``: of the whole processor, where the machine tells."""

    n_rows: int
    n_done: int
    n_failed: int
    n_before: int
    n_repeated: int
    n_places: int
    seconds: float
    rows_per_s: float
    generated_tps: float
    n_prompt: int
    n_reused: int
    n_prefilled: int
    n_generated: int
    n_drafted: int
    n_accepted: int
    n_retries: int
    peak_rss_bytes: int
    energy_j: float | None
    energy_why_not: str | None
    complete: bool
    results: str
    errors: str | None
    metrics: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Tally:
    """Sums over the rows of this run."""

    n_retries: int = 0
    peak_rss_bytes: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))

    def add(self, stats: GenerationStats) -> None:
        for name in _COUNTS:
            self.tokens[name] += getattr(stats, name)


class Run:
    """To be used once, under the lock of ``outputs``, with a manifest that agrees and the ``ledger`` of what it found.

    ``facts``: what the manifest says, for the metrics. ``max_attempts``: how often a row is tried whose failure might
    pass. ``most_s``: after so many seconds no further row is begun. ``watch`` hears four times a second how far it
    is."""

    def __init__(
        self,
        source: Source,
        job: Job,
        computer: Computer,
        outputs: Outputs,
        ledger: Ledger,
        *,
        facts: Mapping[str, Any],
        selection: Selection,
        max_attempts: int,
        watch: Watch,
        said: Callable[[str], None],
        most_s: float | None = None,
    ) -> None:
        self._source, self._job, self._computer, self._outputs = source, job, computer, outputs
        self._ledger = ledger
        self._facts = facts
        self._chosen = selection.rows(source.n_rows)
        self._max_attempts = max_attempts
        self._watch, self._said = watch, said
        self._told_model = False
        self._most_s = most_s
        self._n_done, self._n_failed = ledger.n_within(self._chosen)
        self._n_before = self._n_done + self._n_failed
        self._n_met = 0
        self._under_way = 0
        self._attempts: dict[int, int] = {}
        self._again: deque[Row] = deque()
        self._n_faults = 0
        self._tally = _Tally()
        self._pace = Pace(computer.n_places)
        self._process = psutil.Process()
        self._meter = Meter()
        self._second_at = self._tick_at = 0.0
        self._results: Journal
        self._errors: Journal | None = None
        self._metrics: Metrics

    def go(self) -> Report:
        """Run to the end. Raises `WriteError`, whatever ends the computer, and `KeyboardInterrupt`; then too the files
        are whole."""
        with contextlib.ExitStack() as stack:
            self._metrics = Metrics(self._outputs.metrics)
            stack.callback(self._metrics.close)
            self._results = Journal(self._outputs.results)
            stack.callback(self._results.close)
            stack.callback(self._close_errors)
            self._metrics.begin(self._computer.n_places, self._n_rows, self._facts)
            try:
                self._loop()
            except BaseException:
                self._computer.cancel()
                with contextlib.suppress(Exception):  # the full disk, or whoever watches, may be what ends the run
                    self._watch(self._progress())
                    self._metrics.end(self._report(complete=False).as_dict())
                raise
            self._sync(now=True)
            report = self._report(complete=not self._out_of_time)
            self._metrics.end(report.as_dict())
        self._watch(self._progress())
        return report

    def _close_errors(self) -> None:
        if self._errors is not None:
            self._errors.close()

    def _loop(self) -> None:
        rows = grouped(self._fresh())
        while True:
            self._fill(rows)
            if not self._under_way:
                return
            ended = self._computer.next(self._patience())
            if ended is not None:
                self._under_way -= ended[0].n
                self._take(*ended)
            self._sync()
            self._tick()

    # ---- in

    def _fresh(self) -> Iterator[Row]:
        """Rows of the selection that are not done. Those that cannot be computed are dealt with here."""
        for raw in self._selected():
            self._n_met += 1
            if self._ledger.has(raw):
                continue
            try:
                row = self._job.read(raw)
            except RowError as error:
                self._ledger.saw_id(error.custom_id)
                self._fail(raw, error.custom_id, error)
                continue
            self._ledger.saw_id(row.custom_id)
            if row.model not in (None, self._computer.model) and not self._told_model:
                self._told_model = True
                self._said(f"rows name another model ({row.model!r:.60}); {self._computer.model} answers them")
            yield row

    def _selected(self) -> Iterator[Raw]:
        rows = self._source.rows()
        if self._chosen is None:
            yield from rows
            return
        wanted = iter(self._chosen)
        index = next(wanted, None)
        for raw in rows:
            if index is None:
                return
            if raw.index == index:
                yield raw
                index = next(wanted, None)

    def _fill(self, rows: Iterator[Row]) -> None:
        """Keep the computer's places busy, with as many waiting: then it never waits for us."""
        while self._under_way < 2 * self._computer.n_places and not self._out_of_time:
            row = self._again.popleft() if self._again else next(rows, None)
            if row is None:
                return
            try:
                self._computer.submit(row)
            except (UsageError, TemplateError) as error:
                self._fail(row, row.custom_id, error)
            except EdgeInferError:
                raise
            except Exception as bug:  # which one row brings out; the others must not wait for it to be mended
                self._take(row, EngineError(f"{type(bug).__name__}: {bug}"))
            else:
                self._under_way += row.n

    @property
    def _out_of_time(self) -> bool:
        return self._most_s is not None and self._pace.seconds > self._most_s

    # ---- out

    def _take(self, row: Row, outcome: Computed | EdgeInferError) -> None:
        attempts = self._attempts.pop(row.index, 0) + 1
        if isinstance(outcome, Computed):
            form = plain_form if row.form == "plain" else openai_form
            self._results.append(_line(form.line_of(row, outcome)))
            self._ledger.add(row.index, row.key)
            self._n_done += 1
            self._n_faults = 0
            self._tally.add(outcome.stats)
            self._metrics.row(row, outcome.stats, attempts)
            self._pace.ended()
        elif isinstance(outcome, (UsageError, TemplateError)):
            self._fail(row, row.custom_id, outcome, attempts)
        else:
            self._n_faults += 1
            if self._n_faults > max(_MOST_FAULTS, 2 * self._computer.n_places):
                raise outcome
            if attempts >= self._max_attempts:
                self._fail(row, row.custom_id, outcome, attempts)
            else:
                self._attempts[row.index] = attempts
                self._tally.n_retries += 1
                self._again.append(row)

    def _fail(self, row: Raw | Row, custom_id: str | None, error: EdgeInferError, attempts: int = 1) -> None:
        if self._errors is None:
            self._errors = Journal(self._outputs.errors)
        code = "invalid_row" if isinstance(error, (UsageError, TemplateError)) else "failed"
        told = {"code": code, "message": f"line {row.line}: {error}", "line": row.line}
        line = {"id": row.name, "custom_id": custom_id, "index": row.index, "response": None, "error": told}
        self._errors.append(_line(line))
        self._ledger.add(row.index, row.key, failed=True)
        self._n_failed += 1
        self._metrics.failed(row.index, code, attempts)
        self._pace.ended()

    def _journals(self) -> list[Journal]:
        return [self._results] if self._errors is None else [self._results, self._errors]

    def _sync(self, *, now: bool = False) -> None:
        for journal in self._journals():
            if now or journal.due_s == 0:
                journal.sync()

    def _patience(self) -> float:
        due = [journal.due_s for journal in self._journals()]
        return max(0.001, min([_TICK_S, *(seconds for seconds in due if seconds is not None)]))

    # ---- telling

    @property
    def _n_rows(self) -> int | None:
        return len(self._chosen) if self._chosen is not None and self._source.n_rows is not None else None

    def _tick(self) -> None:
        now = time.monotonic()
        if now < self._tick_at:
            return
        self._tick_at = now + _TICK_S
        progress = self._progress()
        self._watch(progress)
        if now >= self._second_at:
            self._second_at = now + _SECOND_S
            self._metrics.second(progress, self._meter.joules())

    def _progress(self) -> Progress:
        n_rows, n_ended = self._n_rows, self._n_done + self._n_failed
        n_computing = min(self._under_way, self._computer.n_places)
        rss = self._process.memory_info().rss
        self._tally.peak_rss_bytes = max(self._tally.peak_rss_bytes, rss)
        return Progress(
            n_rows=n_rows,
            n_done=self._n_done,
            n_failed=self._n_failed,
            n_before=self._n_before,
            n_generated=self._computer.n_generated,
            generated_tps=self._pace.generated(self._computer.n_generated),
            seconds=self._pace.seconds,
            eta_s=None if n_rows is None else self._pace.eta_s(n_rows - n_ended, n_computing),
            rss_bytes=rss,
        )

    def _report(self, *, complete: bool) -> Report:
        progress = self._progress()
        seconds, tally = max(progress.seconds, 1e-9), self._tally
        n_rows = self._n_rows if self._n_rows is not None else self._n_met
        return Report(
            n_rows=n_rows,
            n_done=self._n_done,
            n_failed=self._n_failed,
            n_before=self._n_before,
            n_repeated=self._ledger.n_repeated,
            n_places=self._computer.n_places,
            seconds=seconds,
            rows_per_s=(self._n_done + self._n_failed - self._n_before) / seconds,
            generated_tps=tally.tokens["n_generated"] / seconds,
            n_retries=tally.n_retries,
            peak_rss_bytes=tally.peak_rss_bytes,
            energy_j=self._meter.joules(),
            energy_why_not=self._meter.why_not,
            complete=complete,
            results=str(self._outputs.results),
            errors=str(self._outputs.errors) if self._ledger.n_failed else None,
            metrics=str(self._outputs.metrics),
            **tally.tokens,
        )


def _line(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half a character, in metadata or a message: JSON can write it with escapes alone
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"
