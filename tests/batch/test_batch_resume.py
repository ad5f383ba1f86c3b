"""A job that goes on: what is kept, what is mended, what is refused."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from edgeinfer import GenerationStats, batch, files
from edgeinfer.batch import Progress
from edgeinfer.batch.journal import Journal
from edgeinfer.errors import EngineError, FormatError, RequestCancelled, UsageError

ROWS = [{"prompt": f"question {i}", "id": f"r{i}"} for i in range(20)]


class Enough(Exception):
    """What a watch raises to stop a run, as Ctrl-C would."""


def stop_after(n_done: int) -> Any:
    def watch(now: Progress) -> None:
        if now.n_done >= n_done:
            raise Enough

    return watch


def stopped(job: Any, n_done: int = 1, **options: Any) -> int:
    """Run until some rows are done; returns how many."""
    with contextlib.suppress(Enough):
        job.run(watch=stop_after(n_done), **options)
    return len(job.lines())


@pytest.fixture(autouse=True)
def _watch_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeinfer.batch.runner._TICK_S", 0.0)


def test_a_run_goes_on_where_the_last_one_stopped(job: Any) -> None:
    job.write(*ROWS)
    job.run()
    whole = sorted(job.out.read_bytes().splitlines())
    job.run(restart=True, limit=7)
    assert len(job.lines()) == 7
    n_done = stopped(job, 9)
    assert 9 <= n_done < 20
    report = job.run()
    assert (report.n_rows, report.n_done, report.n_before, report.complete) == (20, 20, n_done, True)
    assert sorted(job.out.read_bytes().splitlines()) == whole
    assert report.n_generated == sum(row["usage"]["completion_tokens"] for row in job.lines()[n_done:])
    again = job.run()
    assert (again.n_before, again.n_prompt) == (20, 0)
    assert job.llm.load == (0, 0)


def test_a_sample_is_the_same_again_and_part_of_the_whole(job: Any) -> None:
    job.write(*ROWS)
    report = job.run(sample=5)
    chosen = {row["index"] for row in job.lines()}
    assert (report.n_rows, report.n_done, len(chosen)) == (5, 5, 5)
    assert chosen != set(range(5))
    assert job.run(sample=5).n_before == 5
    assert job.run(limit=3, sample=50).n_rows == 3
    assert job.run().n_done == 20
    assert len(job.lines()) == 20


def test_every_torn_tail_is_mended(job: Any) -> None:
    """The output ends after any byte of its last line, or in zeros: the row of that line is done again."""
    job.write(*ROWS[:3])
    job.run()
    whole = job.out.read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = len(b"".join(lines[:2]))
    tails = [whole[: kept + n] for n in range(1, len(lines[2]))] + [whole[:kept] + b"\0" * 50, whole[:kept] + b"\0\n"]
    for torn in tails:
        job.said.clear()
        job.out.write_bytes(torn)
        report = job.run()
        assert (report.n_before, report.n_done) == (2, 3)
        assert sorted(job.out.read_bytes().splitlines(keepends=True)) == sorted(lines)
        assert f"{len(torn) - kept} bytes are cut off" in job.said[0]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda lines: [b"nothing\n", *lines], "line 1 of .* is not one of this job"),
        (lambda lines: [lines[0], b'{"id": 3}\n', *lines[1:]], "line 2 of"),
        (lambda lines: [*lines, b"a note\n"], "line 4 of"),
        (lambda lines: [*lines, lines[0]], "line 4 of .* is about row . again"),
        (lambda lines: [*lines[:2], lines[2].replace(b"_", b"-")], "line 3 of"),
    ],
)
def test_what_we_did_not_write_is_left_alone(job: Any, damage: Any, why: str) -> None:
    job.write(*ROWS[:3])
    job.run()
    damaged = b"".join(damage(job.out.read_bytes().splitlines(keepends=True)))
    job.out.write_bytes(damaged)
    with pytest.raises(FormatError, match=why):
        job.run()
    assert job.out.read_bytes() == damaged


def test_a_changed_job_is_refused(job: Any) -> None:
    job.write(*ROWS)
    stopped(job)
    before = job.out.read_bytes()

    def refused(**options: Any) -> str:
        with pytest.raises(UsageError, match="this is not the job that") as caught:
            job.run(**options)
        assert job.out.read_bytes() == before
        return str(caught.value)

    assert "parameters.temperature was 0.0 and is 0.7" in refused(temperature=0.7)
    assert "parameters.max_tokens was 6 and is not given" in refused(max_tokens=None)
    assert 'parameters.system was not given and is "S"' in refused(system="S")
    assert "parameters.quality was not given" in refused(settings={"quality": "high"})
    job.write(*ROWS, {"prompt": "one more"})
    changed = refused()
    assert "input.bytes was" in changed
    assert "input.sha256 was" in changed
    assert "input.rows was 20 and is 21" in changed
    assert "--restart" in changed
    assert job.run(restart=True).n_done == 21


@pytest.mark.parametrize("name", ["out.jsonl", "out.errors.jsonl", "out.metrics.jsonl"])
@pytest.mark.parametrize("linked", [False, True])
def test_rows_that_come_from_a_file_of_the_job(job: Any, name: str, linked: bool) -> None:
    """A restart removed the rows that it was to answer, and then could not read them."""
    rows = job.write({"prompt": "a"}).read_bytes()
    source = job.path / name
    if linked:
        source.symlink_to(job.source)
    else:
        source.write_bytes(rows)
    with pytest.raises(UsageError, match=f"{name} would be written by the job"):
        job.run(source, restart=True)
    assert source.read_bytes() == rows


def test_versions_and_models_are_part_of_the_job(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job.write(*ROWS[:2])
    job.run()
    monkeypatch.setattr("edgeinfer.batch.compute.__version__", "9.9")
    with pytest.raises(UsageError, match=r'versions.edgeinfer was ".*" and is "9.9"'):
        job.run()


def test_somebody_elses_file_is_not_overwritten(job: Any) -> None:
    job.write(*ROWS[:2])
    job.out.write_text("precious\n")
    with pytest.raises(UsageError, match="not the output of a batch job"):
        job.run()
    (job.path / "out.manifest.json").write_text("{}")
    with pytest.raises(FormatError, match="is not the manifest"):
        job.run()
    assert job.out.read_text() == "precious\n"
    assert job.run(restart=True).n_done == 2
    for bad in (job.path, job.path / "no" / "out.jsonl"):
        with pytest.raises(UsageError):
            batch.run(job.source, job.llm, bad)


def test_one_at_a_time(job: Any) -> None:
    job.write(*ROWS[:2])
    with files.lock(job.path / ".out.jsonl.lock"), pytest.raises(UsageError, match="another process is working on"):
        job.run()
    assert job.run().n_done == 2


def test_order_of_the_input(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job.write(*reversed(ROWS), *(b"{" for _ in range(3)))
    job.run()
    in_order = [row["index"] for row in job.lines()]
    assert in_order != sorted(in_order), "rows are grouped by their prompts"
    (job.path / ".out.jsonl.dead.tmp").write_text("half an output")
    report = job.run(order="input")
    assert report.n_before == 23
    assert [row["index"] for row in job.lines()] == list(range(20))
    assert not list(job.path.glob(".*.tmp"))
    monkeypatch.setattr("edgeinfer.batch.order.open_atomic", pytest.fail)  # it is in order already
    job.run(order="input")


class Faulty:
    """A computer that fails as told: ``faults`` of a row's attempts, by index."""

    model, n_places, n_generated = "faulty", 2, 0

    def __init__(self, faults: dict[int, int], error: Exception) -> None:
        self.faults, self.error = faults, error
        self.waiting: list[Any] = []
        self.attempts: list[int] = []
        self.cancelled = False

    def facts(self) -> dict[str, Any]:
        return {}

    def submit(self, row: Any) -> None:
        self.waiting.append(row)

    def next(self, _timeout_s: float) -> Any:
        row = self.waiting.pop(0)
        self.attempts.append(row.index)
        self.faults[row.index] = self.faults.get(row.index, 0) - 1
        done = batch.Computed({"text": "x"}, GenerationStats(n_generated=1))
        return row, self.error if self.faults[row.index] >= 0 else done

    def cancel(self) -> None:
        self.cancelled = True


def test_faults_that_pass_are_tried_again_and_others_end_in_the_errors(job: Any) -> None:
    job.write(*ROWS[:6])
    faulty = Faulty({1: 2, 3: 99}, EngineError("a fault"))
    report = batch.run(job.source, faulty, job.out)
    assert (report.n_done, report.n_failed, report.n_retries) == (5, 1, 4)
    assert faulty.attempts.count(1) == 3
    assert faulty.attempts.count(3) == 3
    assert job.errors == ["line 4: a fault"]
    assert job.lines("out.errors.jsonl")[0]["error"]["code"] == "failed"
    assert batch.run(job.source, Faulty({}, EngineError("")), job.out).n_before == 6
    again = batch.run(job.source, Faulty({}, EngineError("")), job.out, retry_failed=True)
    assert (again.n_before, again.n_done, again.n_failed, again.errors) == (5, 6, 0, None)
    assert len(job.lines()) == 6


def test_an_engine_that_only_fails_ends_the_job(job: Any) -> None:
    job.write(*({"prompt": f"p{i}"} for i in range(200)))
    faulty = Faulty(dict.fromkeys(range(200), 99), EngineError("it is broken"))
    with pytest.raises(EngineError, match="it is broken"):
        batch.run(job.source, faulty, job.out, max_attempts=2)
    assert faulty.cancelled
    assert len(job.errors) < 20
    assert job.lines("out.metrics.jsonl")[-1]["complete"] is False


def test_a_model_that_is_closed_meanwhile(job: Any) -> None:
    job.llm.close()
    job.write(*ROWS)
    with pytest.raises(RequestCancelled, match="closed"):
        job.run()
    assert job.errors == []


def test_lines_are_synced_within_a_second(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    whole_sync = Journal.sync

    def sync(journal: Journal) -> None:
        if journal.due_s is not None:
            synced.append(len(journal.path.read_bytes().splitlines()))
        whole_sync(journal)

    monkeypatch.setattr(Journal, "sync", sync)
    monkeypatch.setattr("edgeinfer.batch.journal.SYNC_S", 0.0)
    job.write(*ROWS)
    job.run()
    assert len(synced) > 3
    assert synced[-1] == 20
    assert synced == sorted(synced)


def test_metrics_tell_of_each_row_and_each_run(job: Any) -> None:
    job.write(*ROWS, b"{")
    (job.path / "out.metrics.jsonl").write_bytes(b'{"kind":"end"}\n{"kind":"r')
    job.run(restart=False)
    job.run()
    lines = job.lines("out.metrics.jsonl")
    kinds = [line["kind"] for line in lines]
    assert kinds[0] == "end", "an earlier run's; its torn line is gone"
    assert kinds.count("run") == 2
    assert kinds.count("row") == 21
    assert kinds.count("second") >= 1
    rows = [line for line in lines if line["kind"] == "row" and "error" not in line]
    assert {line["index"] for line in rows} == set(range(20))
    wanted = {
        "t",
        "ttft_s",
        "latency_s",
        "n_prompt",
        "n_reused",
        "n_prefilled",
        "n_generated",
        "n_drafted",
        "n_accepted",
    }
    assert all(wanted <= set(line) for line in rows)
    assert all(0 < line["ttft_s"] <= line["latency_s"] for line in rows)
    assert lines[1]["job"]["parameters"]["max_tokens"] == 6
    end = [line for line in lines if line["kind"] == "end"][1]
    assert sum(line["n_prefilled"] for line in rows) == end["n_prefilled"]
    assert end["n_prefilled"] + end["n_reused"] == end["n_prompt"]
    assert all(line["rss_bytes"] > 1 << 20 for line in lines if line["kind"] == "second")


def test_ids_that_repeat_are_counted(job: Any) -> None:
    job.write(*({"prompt": "hello", "id": f"i{i % 4}"} for i in range(6)), {"prompt": "none"})
    assert job.run(limit=3).n_repeated == 0
    report = job.run()
    assert (report.n_repeated, report.n_done) == (2, 7)


def test_places_are_kept_full_and_prefixes_read_once(job: Any) -> None:
    """Rows of two system prompts, shuffled: each is read once, while others wait."""
    systems = ["A" * 200, "B" * 200]
    job.write(*({"prompt": f"{i:03}", "system": systems[i % 2]} for i in range(40)))
    report = job.run()
    assert report.n_prefilled < 2 * 250 + 40 * 40
    assert report.n_reused > 38 * 200


def test_threads_end_with_the_run(job: Any) -> None:
    body = {"input": "text"}
    job.write(*({"custom_id": "e", "url": "/v1/embeddings", "body": body} for _ in range(20)))
    before = threading.active_count()
    job.run()
    assert threading.active_count() <= before + 2
    assert Path(job.out).exists()
    assert json.loads(job.out.read_text().splitlines()[0])["response"]["status_code"] == 200
