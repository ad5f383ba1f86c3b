"""What is told while a job runs, what an estimate says, and that memory stays flat."""

from __future__ import annotations

import heapq
import json
import random
from pathlib import Path
from typing import Any

import batch_flat
import batch_kill
import pytest

from edgeinfer.batch.compute import LocalComputer
from edgeinfer.batch.energy import Meter
from edgeinfer.batch.estimate import estimate
from edgeinfer.batch.progress import Pace
from edgeinfer.errors import UsageError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("n_places", [1, 4, 16])
@pytest.mark.parametrize(("n_rows", "lengths"), [(200, (3.0, 4.0, 5.0)), (1000, (1.0, 2.0, 6.0))])
@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_the_job_tells_how_long_it_takes(
    n_places: int, n_rows: int, lengths: tuple[float, ...], seed: int
) -> None:
    """Rows of different lengths on several places: after a tenth of them, within 20 %."""
    chance, clock = random.Random(seed), Clock()
    pace = Pace(n_places, clock)
    ends = [clock.now + chance.choice(lengths) for _ in range(n_places)]
    heapq.heapify(ends)
    told = at = 0.0
    for n_ended in range(1, n_rows + 1):
        clock.now = heapq.heappop(ends)
        pace.ended()
        if n_ended + len(ends) < n_rows:
            heapq.heappush(ends, clock.now + chance.choice(lengths))
        if n_ended == n_rows // 10:
            told, at = pace.eta_s(n_rows - n_ended, len(ends)) or 0.0, clock.now
    assert pace.eta_s(0) == 0.0
    assert told / (clock.now - at) == pytest.approx(1.0, abs=0.2)


def test_pace_of_tokens_is_of_late() -> None:
    clock = Clock()
    pace = Pace(2, clock)
    assert pace.eta_s(5) is None
    assert pace.generated(0) == 0.0
    for second in range(1, 60):
        clock.now += 1
        rate = pace.generated(100 * second if second < 30 else 3000)
    assert rate == 0.0
    assert pace.seconds == 59


def test_progress_of_a_job(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeinfer.batch.runner._TICK_S", 0.0)
    job.write(*({"prompt": f"hello {i}"} for i in range(30)), b"{")
    seen: list[Any] = []
    job.run(watch=seen.append)
    assert [now.n_done for now in seen] == sorted(now.n_done for now in seen)
    last = seen[-1]
    assert (last.n_rows, last.n_done, last.n_failed, last.eta_s) == (31, 30, 1, 0.0)
    assert last.n_generated == 30 * 6
    assert any(now.eta_s for now in seen[:-1])


def test_memory_is_flat_and_time_is_told() -> None:
    """A short form of the tool, whose full run has 100,000 rows."""
    found = batch_flat.compare([500, 3000])
    assert found["flat"], found
    assert found["eta_share"] > 0


# ---- estimates


def estimated(path: Path, **options: Any) -> Any:
    arguments: dict[str, Any] = {"prompt_template": None, "system": None, "raw": False, "limit": None, "sample": None}
    with batch_kill.scripted_llm() as llm:
        arguments |= {"watch": lambda _now: None, "options": {"temperature": 0.0, "max_tokens": 10}}
        return estimate(path, LocalComputer(llm), **(arguments | options))


def test_an_estimate_from_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "hello"}\n' * 990 + "{\n" * 10)
    found = estimated(path)
    assert (found.n_rows, found.n_bad) == (1000, 10)
    assert found.n_sampled <= 32
    assert found.n_generated == 990 * 10
    assert found.n_prompt == 990 * len("|user: hello|assistant: ")
    assert 0 < found.hours < 1
    assert found.first_problems[0].startswith("line 991: not JSON")
    assert (found.energy_wh is None) == (found.energy_why_not is not None)
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]
    assert estimated(path, limit=100, sample=3).n_sampled == 3
    json.dumps(found.as_dict())


def test_an_estimate_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("{\n{\n")
    with pytest.raises(UsageError, match=r"no row of the sample could be computed; line 1: not JSON"):
        estimated(path)


def test_energy_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeinfer.batch.energy.sys.platform", "linux")
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "energy_uj").write_text("9000000\n")
        (folder / "max_energy_range_uj").write_text("10000000\n")
    meter = Meter(tmp_path)
    assert meter.why_not is None
    assert meter.joules() == 0.0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("9500000")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("1000000")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("1")
    assert meter.joules() == pytest.approx(0.5 + 2.0), "the second counter has begun again"
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("9600000")
    assert meter.joules() == pytest.approx(2.6)


def test_no_energy_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeinfer.batch.energy.sys.platform", "linux")
    meter = Meter(tmp_path / "none")
    assert meter.joules() is None
    assert "no energy counters" in (meter.why_not or "")
    folder = tmp_path / "intel-rapl:0"
    folder.mkdir()
    (folder / "energy_uj").write_text("secret")
    assert "cannot be read" in (Meter(tmp_path).why_not or "")
    monkeypatch.setattr("edgeinfer.batch.energy.sys.platform", "darwin")
    assert "does not tell" in (Meter(tmp_path).why_not or "")
