"""A job's metrics as they lie on disk, read with care: the file may be anybody's. What the lines mean is at the head of
`edgeinfer.batch.metrics`."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from edgeinfer.batch.metrics import COUNTS, TIMES
from edgeinfer.batch.outputs import Outputs
from edgeinfer.errors import FormatError, UsageError

__all__ = ["Measured", "read"]

_MAX_LINE_BYTES = 64 << 20  # a run's line holds the facts of its job, grammars included
_MOST = 1e15
_SECOND = ("n_done", "n_failed", "n_generated", "rss_bytes")


@dataclass(slots=True)
class Measured:
    """All runs of a job, laid end to end as if nothing had come between them.

    ``rows``: a column a name (`COUNTS`, `TIMES`, ``index``, ``t``, ``draft_gain``), one entry for each row that was
    computed; a gain is NaN where nobody told it. ``timeline``: columns ``t``, ``rss_bytes``, ``n_generated`` (tokens so
    far), one entry a second and one where a run begins and ends. ``energy_j``: None unless every run has measured it;
    ``energy_why_not`` says why. ``job``: the facts of the last run's manifest. ``torn``: the number of a last line that
    a death has left unfinished."""

    label: str
    path: Path
    n_runs: int = 0
    n_rows: int | None = None
    n_places: int = 0
    n_done: int = 0
    n_failed: int = 0
    n_retries: int = 0
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    energy_j: float | None = 0.0
    energy_why_not: str | None = None
    complete: bool = False
    job: Mapping[str, Any] = field(default_factory=dict)
    rows: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("d") for name in (*COUNTS, *TIMES, "index", "t", "draft_gain")}
    )
    timeline: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("d") for name in ("t", "rss_bytes", "n_generated")}
    )
    torn: int | None = None


def read(path: str | Path, label: str | None = None) -> Measured:
    """The metrics of a job. ``path``: that file, or the job's output.

    Raises `UsageError` for a file that is not there, `FormatError` for one that holds anything but metrics, with the
    line. A last line without an end is left out and noted: a job that is killed, or still runs, may leave one."""
    path = Path(path)
    found = path if path.name.endswith(".metrics.jsonl") or path.is_dir() else Outputs.of(path).metrics
    if not found.is_file() and path.is_file():
        found = path  # metrics under another name
    label = label or path.name.removesuffix(".jsonl").removesuffix(".metrics")
    reader = _Reader(Measured(label, found))
    try:
        with found.open("rb") as stream:
            while line := stream.readline(_MAX_LINE_BYTES):
                reader.take(line)
    except OSError as error:
        raise UsageError(
            f"cannot read {found}: {error.strerror or error}; give the output of a batch job, or its .metrics.jsonl"
        ) from error
    return reader.end()


class _Reader:
    """Line by line."""

    def __init__(self, found: Measured) -> None:
        self._found = found
        self._number = 0
        self._offset = 0.0  # when the run began that is being read, runs laid end to end
        self._now = 0.0
        self._n_generated = [0.0, 0.0]  # up to this run, and within it
        self._energy: float | None = None
        self._failed: set[int] = set()
        self._done: set[int] = set()
        self._kinds: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "run": self._run,
            "row": self._row,
            "second": self._second,
            "end": self._end,
        }

    def take(self, line: bytes) -> None:
        self._number += 1
        whole = line.endswith(b"\n")
        try:
            document = json.loads(line, parse_constant=self._no_number)
        except (ValueError, RecursionError) as error:
            if not whole and len(line) < _MAX_LINE_BYTES and not isinstance(error, FormatError):
                self._found.torn = self._number
                return
            self._wrong(f"not JSON ({error})" if whole else "a line without an end")
        kind = document.get("kind") if isinstance(document, dict) else None
        if not isinstance(kind, str) or kind not in self._kinds:
            self._wrong(f"a line of kind {kind!r:.40}, where run, row, second and end are known")
        if kind != "run" and not self._found.n_runs:
            self._wrong(f"a {kind} before any run has begun")
        self._kinds[kind](document)

    def end(self) -> Measured:
        found = self._found
        if not found.n_runs:
            raise FormatError(f"{found.path} holds no run of a batch job")
        self._close_run()
        found.n_done, found.n_failed = len(self._done), len(self._failed)
        return found

    # ---- kinds

    def _run(self, line: Mapping[str, Any]) -> None:
        self._close_run()
        found = self._found
        found.n_runs += 1
        found.n_places = int(self._number_of(line, "n_places"))
        found.n_rows = None if line.get("n_rows") is None else int(self._number_of(line, "n_rows"))
        job = line.get("job", {})
        if not isinstance(job, dict):
            self._wrong("job is not an object")
        found.job, found.complete = job, False
        self._energy, self._now = None, 0.0
        self._mark(math.nan)

    def _close_run(self) -> None:
        found = self._found
        if not found.n_runs:
            return
        self._mark(math.nan)
        self._offset += self._now
        self._n_generated = [sum(self._n_generated), 0.0]
        found.seconds = self._offset
        if self._energy is None:
            found.energy_j = None
            found.energy_why_not = found.energy_why_not or "a run has not measured it"
        elif found.energy_j is not None:
            found.energy_j += self._energy

    def _row(self, line: Mapping[str, Any]) -> None:
        rows, index = self._found.rows, int(self._number_of(line, "index"))
        self._tell_time(line)
        self._found.n_retries += max(0, int(self._number_of(line, "attempts", 1)) - 1)
        if "error" in line:
            self._failed.add(index)
            return
        self._failed.discard(index)
        self._done.add(index)
        for name in (*COUNTS, *TIMES):
            rows[name].append(self._number_of(line, name))
        rows["index"].append(index)
        rows["t"].append(self._offset + self._now)
        told = "draft_gain" in line or not rows["n_drafted"][-1]
        rows["draft_gain"].append(self._number_of(line, "draft_gain", 1.0) if told else math.nan)

    def _second(self, line: Mapping[str, Any]) -> None:
        self._tell_time(line)
        values = {name: self._number_of(line, name) for name in _SECOND}
        self._n_generated[1] = max(self._n_generated[1], values["n_generated"])
        if line.get("energy_j") is not None:
            self._energy = self._number_of(line, "energy_j")
        self._found.peak_rss_bytes = max(self._found.peak_rss_bytes, int(values["rss_bytes"]))
        self._mark(values["rss_bytes"])

    def _end(self, line: Mapping[str, Any]) -> None:
        self._tell_time(line)
        found = self._found
        found.complete = line.get("complete") is True
        peak = int(self._number_of(line, "peak_rss_bytes", 0))
        found.peak_rss_bytes = max(found.peak_rss_bytes, peak)
        if line.get("energy_j") is not None:
            self._energy = self._number_of(line, "energy_j")
        why = line.get("energy_why_not")
        if self._energy is None and isinstance(why, str):
            found.energy_why_not = why[:300]
        n_generated = self._number_of(line, "n_generated", 0)
        self._n_generated[1] = max(self._n_generated[1], n_generated)

    # ---- checks

    def _tell_time(self, line: Mapping[str, Any]) -> None:
        self._now = max(self._now, self._number_of(line, "t"))

    def _mark(self, rss_bytes: float) -> None:
        timeline = self._found.timeline
        timeline["t"].append(self._offset + self._now)
        timeline["rss_bytes"].append(rss_bytes)
        timeline["n_generated"].append(sum(self._n_generated))

    def _number_of(self, line: Mapping[str, Any], name: str, missing: float | None = None) -> float:
        value = line.get(name, missing)
        if type(value) not in (int, float) or not 0 <= value <= _MOST:
            self._wrong(f"{name} is {value!r:.40}, but must be a number from 0")
        return float(value)

    def _no_number(self, word: str) -> NoReturn:
        self._wrong(f"{word} is no number")

    def _wrong(self, what: str) -> NoReturn:
        raise FormatError(
            f"line {self._number} of {self._found.path} is not one of a batch job's metrics: {what}; "
            "give the output of a batch job, or its .metrics.jsonl"
        )
