"""What a run measured, as lines beside its output: what each row cost, and each second. Every run adds its own.

{"kind": "run", "began": seconds since 1970, "n_places": 16, "n_rows": 1000, "job": {the manifest's facts}}
{"kind": "row", "t": seconds since the run began, "index", "ttft_s", "latency_s", "queue_s", "n_prompt", "n_reused",
 "n_prefilled", "n_generated", "n_drafted", "n_accepted", "draft_gain", "attempts"}    failed rows: "error" instead
{"kind": "second", "t", "n_done", "n_failed", "n_generated", "generated_tps", "rss_bytes", "energy_j"}
{"kind": "end", "t", "complete": true, …: what `Report` says}
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeinfer.batch.journal import Journal, WriteError
from edgeinfer.batch.progress import Progress
from edgeinfer.batch.rows import Row
from edgeinfer.core import GenerationStats

__all__ = ["COUNTS", "TIMES", "Metrics"]

COUNTS = ("n_prompt", "n_reused", "n_prefilled", "n_generated", "n_drafted", "n_accepted")
TIMES = ("ttft_s", "latency_s", "queue_s")
"""What a row with a result says, besides `COUNTS`: seconds since it was handed in, and of these in the queue."""


class Metrics:
    """Appends to ``path``. Raises `WriteError` from all methods."""

    def __init__(self, path: Path) -> None:
        _end_last_line(path)
        self._journal = Journal(path, durable=False)
        self._begin = time.monotonic()

    def begin(self, n_places: int, n_rows: int | None, job: Mapping[str, Any]) -> None:
        self._write("run", {"began": round(time.time(), 3), "n_places": n_places, "n_rows": n_rows, "job": job})

    def row(self, row: Row, stats: GenerationStats, attempts: int) -> None:
        times = {"ttft_s": stats.ttft_s, "latency_s": stats.total_s, "queue_s": stats.queue_s}
        rounded = {name: round(seconds, 6) for name, seconds in times.items()}
        counts = {name: getattr(stats, name) for name in COUNTS}
        gain = {"draft_gain": round(stats.draft_gain, 4)} if stats.n_drafted else {}
        self._write("row", {"t": self._now(), "index": row.index, **rounded, **counts, **gain, "attempts": attempts})

    def failed(self, index: int, code: str, attempts: int) -> None:
        self._write("row", {"t": self._now(), "index": index, "error": code, "attempts": attempts})

    def second(self, now: Progress, energy_j: float | None) -> None:
        names = ("n_done", "n_failed", "n_generated", "generated_tps", "rss_bytes")
        told = {name: getattr(now, name) for name in names}
        told["generated_tps"] = round(now.generated_tps, 3)
        if energy_j is not None:
            told["energy_j"] = round(energy_j, 3)
        self._write("second", {"t": self._now(), **told})

    def end(self, report: Mapping[str, Any]) -> None:
        self._write("end", {"t": self._now(), **report})

    def close(self) -> None:
        self._journal.close()

    def _now(self) -> float:
        return round(time.monotonic() - self._begin, 6)

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        self._journal.append(json.dumps({"kind": kind, **fields}, separators=(",", ":")).encode() + b"\n")


def _end_last_line(path: Path) -> None:
    """Cut off what an earlier run's death has left half written."""
    try:
        with path.open("r+b") as stream:
            end = stream.seek(0, 2)
            while end:
                begin = max(0, end - 4096)
                stream.seek(begin)
                at = stream.read(end - begin).rfind(b"\n")
                if at >= 0:
                    end = begin + at + 1
                    break
                end = begin
            stream.truncate(end)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteError(path, error) from error
