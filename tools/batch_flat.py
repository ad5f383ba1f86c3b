#!/usr/bin/env python3
"""Whether a batch job takes the same memory whatever its length, and tells in time how long it will take.

    python tools/batch_flat.py                       1,000 and 100,000 rows on the scripted engine; some minutes
    python tools/batch_flat.py --rows 1000 5000      a quick look

Each job runs in a process of its own. Prints one JSON object: peaks of resident memory and their ratio (at most 1.05),
and for the longest job what it said after a tenth of its rows was left, over what it then took (0.8 to 1.2). Exits with
0 where both hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import batch_kill
import psutil

from edgeinfer import batch

MEMORY_MARGIN, ETA_MARGIN = 1.05, 0.2


def measured(rows: Path, out: Path, n_rows: int) -> dict[str, Any]:
    """Run a job in this process, and watch it."""
    told: tuple[float, float] | None = None
    begin = time.monotonic()

    def watch(now: batch.Progress) -> None:
        nonlocal told
        if told is None and now.n_done >= n_rows // 10 and now.eta_s is not None:
            told = now.eta_s, time.monotonic()

    with batch_kill.scripted_llm() as llm:
        report = batch.run(rows, llm, out, temperature=0.0, watch=watch)
    eta_s, at = told or (0.0, begin)
    took_s = time.monotonic() - at
    peak = max(report.peak_rss_bytes, psutil.Process().memory_info().rss)
    return {"rows": report.n_done, "peak_bytes": peak, "seconds": report.seconds, "eta_share": eta_s / took_s}


def compare(all_rows: list[int]) -> dict[str, Any]:
    """Jobs of so many rows, one after the other."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        for n_rows in all_rows:
            rows = Path(name) / f"in-{n_rows}.jsonl"
            batch_kill.write_rows(rows, n_rows, 2)
            command = [sys.executable, __file__, "--rows", str(n_rows), "--folder", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout))
    ratio = results[-1]["peak_bytes"] / results[0]["peak_bytes"]
    share = results[-1]["eta_share"]
    whole = all(result["rows"] == n_rows for result, n_rows in zip(results, all_rows, strict=True))
    flat, timely = ratio <= MEMORY_MARGIN, abs(share - 1) <= ETA_MARGIN
    return {"jobs": results, "memory_ratio": ratio, "eta_share": share, "flat": flat, "ok": whole and flat and timely}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000], metavar="N")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # what each job is started with
    args = parser.parse_args()
    if args.folder:
        n_rows = args.rows[0]
        print(json.dumps(measured(args.folder / f"in-{n_rows}.jsonl", args.folder / f"out-{n_rows}.jsonl", n_rows)))
        return 0
    result = compare(args.rows)
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
