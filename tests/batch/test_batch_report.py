"""Figures of jobs: right by hand, honest about noise, and no file can break the reader."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.batch.reporting.figures import Price, figures_of, over_time
from edgeinfer.batch.reporting.measured import read
from edgeinfer.batch.reporting.noise import compared
from edgeinfer.batch.reporting.shown import comparison_lines, lines, panels, report_page, report_picture
from edgeinfer.cli import main
from edgeinfer.errors import FormatError, UsageError


def run_line(**more: Any) -> dict[str, Any]:
    return {"kind": "run", "began": 1.0, "n_places": 4, "n_rows": 100, "job": {"input": {"sha256": "x"}}, **more}


def row_line(index: int, t: float, latency_s: float = 2.0, **more: Any) -> dict[str, Any]:
    times = {"ttft_s": latency_s / 2, "latency_s": latency_s, "queue_s": 0.5}
    counts = {"n_prompt": 10, "n_reused": 6, "n_prefilled": 4, "n_generated": 5, "n_drafted": 4, "n_accepted": 3}
    return {"kind": "row", "t": t, "index": index, **times, **counts, "draft_gain": 1.5, "attempts": 1, **more}


def second_line(t: float, n_generated: int, rss_bytes: int = 100 << 20, **more: Any) -> dict[str, Any]:
    told = {"n_done": 1, "n_failed": 0, "n_generated": n_generated, "generated_tps": 5.0, "rss_bytes": rss_bytes}
    return {"kind": "second", "t": t, **told, **more}


def end_line(t: float, **more: Any) -> dict[str, Any]:
    return {"kind": "end", "t": t, "complete": True, "peak_rss_bytes": 150 << 20, "energy_j": None, **more}


def written(path: Path, *found: dict[str, Any] | bytes) -> Path:
    data = b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in found)
    path.write_bytes(data)
    return path


def made_up(path: Path, slower: float = 1.0, seed: int = 1, n_rows: int = 400, timed: bool = True) -> Path:
    """A job of ``n_rows`` rows, each of a time around two seconds that follows mostly from the row itself."""
    chance, own = random.Random(seed), random.Random(99)
    found, t, n = [run_line()], 0.0, 0
    for i in range(n_rows):
        t += 0.5 * slower * chance.uniform(0.8, 1.2)
        n += 5
        found.append(row_line(i, t, timed * own.uniform(1, 3) * slower * chance.uniform(0.9, 1.1)))
        found.append(second_line(t, n))
    return written(path, *found, end_line(t, n_generated=n))


def test_figures_by_hand(tmp_path: Path) -> None:
    rows = [row_line(i, 1.0 + i, latency_s=1.0 + i) for i in range(9)]
    failed = {"kind": "row", "t": 9.5, "index": 9, "error": "failed", "attempts": 3}
    path = written(
        tmp_path / "a.metrics.jsonl",
        run_line(),
        second_line(1.0, 5, 200 << 20),
        *rows,
        failed,
        end_line(10.0, energy_j=7200.0),
    )
    found = figures_of(read(path), Price(per_kwh=0.5))
    assert (found.n_done, found.n_failed, found.n_retries, found.complete) == (9, 1, 2, True)
    assert (found.generated_tps, found.prompt_tps, found.rows_per_s) == (4.5, 9.0, 0.9)
    latency = np.arange(1.0, 10.0)
    assert found.latency_s
    assert found.ttft_s
    assert found.computing_s
    assert found.token_s
    assert [found.latency_s.p50, found.latency_s.p90, found.latency_s.p99] == pytest.approx(
        np.percentile(latency, [50, 90, 99]).tolist()
    )
    assert (found.ttft_s.p50, found.computing_s.p50, found.token_s.p50) == (2.5, 4.5, 2.5 / 4)
    assert (found.reused_share, found.prefix_gain) == (0.6, 2.5)
    assert (found.accepted_share, found.drafted_share, found.draft_gain) == (0.75, 0.6, 1.5)
    assert found.peak_rss_bytes == 200 << 20
    assert found.cost
    assert (found.cost.wh, found.cost.watts, found.cost.is_measured) == (2.0, 720.0, True)
    assert found.cost.price == pytest.approx(0.001)
    assert found.cost.price_per_1k_tokens == pytest.approx(0.001 / 0.045)
    given = figures_of(read(path), Price(watts=36.0)).cost
    assert given
    assert given.wh == pytest.approx(0.1)
    assert (given.price, given.is_measured) == (None, False)


def test_runs_of_a_job_count_together(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.metrics.jsonl",
        run_line(),
        row_line(0, 1.0),
        second_line(2.0, 8, energy_j=10.0),
        {"kind": "row", "t": 2.5, "index": 1, "error": "failed", "attempts": 3},
        run_line(),  # the first was killed
        row_line(1, 1.0),
        second_line(1.5, 5, energy_j=5.0),
        end_line(4.0, n_generated=5, energy_j=30.0),
    )
    run = read(path)
    assert (run.n_runs, run.n_done, run.n_failed, run.seconds, run.energy_j) == (2, 2, 0, 6.5, 40.0)
    assert run.rows["t"].tolist() == [1.0, 3.5]
    assert run.timeline["n_generated"].tolist() == [0, 8, 8, 8, 13, 13]
    t, rates, memory = over_time(run)
    assert rates.sum() * (t[1] - t[0]) == pytest.approx(13)
    assert set(memory) == {100 << 20}
    path.write_bytes(path.read_bytes() + json.dumps(run_line()).encode() + b"\n")
    again = figures_of(read(path))
    assert again.cost is None
    assert "--watts" in str(again.cost_why_not)
    assert not again.complete


def test_what_a_death_leaves_is_left_out_and_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "out.metrics.jsonl", run_line(), row_line(0, 1.0), b'{"kind":"second","t":')
    assert read(path).torn == 3
    assert main(["report", str(tmp_path / "out.jsonl")]) == 0
    assert f"line 3 of {path}" in capsys.readouterr().err
    whole = written(path, run_line(), json.dumps(row_line(0, 1.0)).encode())
    assert (read(whole).torn, read(whole).n_done) == (None, 1)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"a note\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"[]\n", "kind None"),
        (b'{"kind":"rows"}\n', "kind 'rows'"),
        (b'{"kind":["run"]}\n', "kind"),
        (b'{"kind":"row","t":NaN}\n', "NaN is no number"),
        (b'{"kind":"end","t":1e400}\n', "t is inf"),
        (b'{"kind":"end","t":"1"}\n', "t is '1'"),
        (b'{"kind":"end","t":true}\n', "t is True"),
        (b'{"kind":"row","t":1,"index":-1}\n', "index is -1"),
        (b'{"kind":"row","t":1,"index":1}\n', "n_prompt is None"),
        (b'{"kind":"second","t":1}\n', "n_done is None"),
        (b'{"kind":"run","n_places":4,"job":3}\n', "job is not"),
        (b'{"kind":"end","t":1,"energy_j":{}}\n', "energy_j is {}"),
    ],
)
def test_foreign_lines(tmp_path: Path, line: bytes, why: str) -> None:
    path = written(tmp_path / "a.metrics.jsonl", run_line(), line, row_line(0, 1.0))
    with pytest.raises(FormatError, match=r"line 2 of .*a\.metrics\.jsonl is not one of") as caught:
        read(path)
    assert why in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"line 1 of .*: a row before any run"):
        read(written(tmp_path / "a.metrics.jsonl", row_line(0, 1.0)))
    with pytest.raises(FormatError, match="holds no run"):
        read(written(tmp_path / "b.metrics.jsonl"))
    with pytest.raises(UsageError, match="give the output of a batch job"):
        read(tmp_path / "no.jsonl")
    with pytest.raises(UsageError):
        read(tmp_path)
    assert read(written(tmp_path / "renamed", run_line())).n_runs == 1


def ratios(a: Path, b: Path) -> dict[str, Any]:
    return {one.name: one for one in compared(read(a), read(b)).ratios}


def test_a_slower_job_is_told_and_noise_is_not(tmp_path: Path) -> None:
    first = made_up(tmp_path / "a.metrics.jsonl")
    same = ratios(first, made_up(tmp_path / "b.metrics.jsonl", seed=2))
    slow = ratios(first, made_up(tmp_path / "c.metrics.jsonl", slower=1.2, seed=3))
    assert set(same) == {"generated_tps", *(f"{t} p{q}" for t in ("latency_s", "ttft_s") for q in (50, 90, 99))}
    assert same["generated_tps"].verdict == same["latency_s p50"].verdict == "not told apart"
    assert slow["generated_tps"].verdict == slow["latency_s p50"].verdict == "worse"
    assert slow["latency_s p90"].low < 1.2 < slow["latency_s p90"].high
    assert slow["latency_s p90"].paired
    assert {one.verdict for one in ratios(first, first).values()} == {"not told apart"}
    back = ratios(tmp_path / "c.metrics.jsonl", first)
    assert back["generated_tps"].verdict == back["latency_s p50"].verdict == "better"
    assert ratios(first, tmp_path / "c.metrics.jsonl") == slow, "the same files, the same bounds"


def test_bounds_cover_the_truth_as_often_as_they_say(tmp_path: Path) -> None:
    """Of jobs whose seconds are slow and fast in stretches, one and the same otherwise."""
    n_told = 0
    for i in range(40):
        named = enumerate(tmp_path / f"{name}.metrics.jsonl" for name in "ab")
        files = [made_up(path, seed=1000 * i + n, n_rows=100, timed=False) for n, path in named]
        n_told += ratios(*files)["generated_tps"].verdict != "not told apart"
    assert n_told <= 8  # 2 expected of 40


def test_pairing_makes_bounds_narrower_and_needs_the_same_rows(tmp_path: Path) -> None:
    first, second = (made_up(tmp_path / f"{name}.metrics.jsonl", seed=seed) for name, seed in (("a", 1), ("b", 2)))
    paired = ratios(first, second)["latency_s p50"]
    second.write_bytes(second.read_bytes().replace(b'"sha256": "x"', b'"sha256": "y"', 1))
    alone = ratios(first, second)["latency_s p50"]
    assert not alone.paired
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    assert compared(read(first), read(second)).changed == ('input.sha256 was "x" and is "y"',)


def test_too_short_to_tell(tmp_path: Path) -> None:
    first, second = (made_up(tmp_path / f"{name}.metrics.jsonl", n_rows=6) for name in "ab")
    found = ratios(first, second)
    assert {one.verdict for one in found.values()} == {"too little to tell"}
    assert found["generated_tps"].low is None
    assert ratios(first, written(tmp_path / "c.metrics.jsonl", run_line())) == {}


def test_a_page_and_a_picture(tmp_path: Path) -> None:
    runs = [read(made_up(tmp_path / f"{name}.metrics.jsonl", slower=s)) for name, s in (("a", 1.0), ("b", 1.2))]
    runs[1].label = "<script>$x$"
    found = [figures_of(run, Price(50, 0.3)) for run in runs]
    comparison = compared(*runs)
    page = report_page(runs, found, [comparison])
    assert "<script>" not in page
    assert "prefers-color-scheme: dark" in page
    assert not [word for word in ("http:", "https:", "src=", "url(", "@import") if word in page]
    for svg in page.split("<figure>")[1:]:
        drawn = ET.fromstring(svg.split("</figure>")[0])
        assert len(list(drawn.iter("polyline"))) == 2
        for one in drawn.iter("polyline"):
            points = [tuple(map(float, point.split(","))) for point in str(one.get("points")).split()]
            assert all(0 <= x <= 900 and 0 <= y <= 320 for x, y in points)
    assert f"{found[0].generated_tps:.1f}" in page
    assert comparison_lines(comparison)[0][4] == "worse"
    picture = report_picture(runs)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    nothing = read(written(tmp_path / "c.metrics.jsonl", run_line()))
    assert panels([nothing]) == []
    assert "Figures" in report_page([nothing], [figures_of(nothing)], [])
    assert report_picture([nothing]).startswith(b"\x89PNG")
    assert ("rows done", "0 of 100") in lines([figures_of(nothing)])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], job: Any) -> None:
    """On what a real run has left."""
    rows = [{"prompt": f"q{i}"} for i in range(12)]
    job.write(*rows, b"{")
    report = job.run()
    out = tmp_path / "r.html"
    assert main(["report", str(job.out), "--watts", "36", "--price-kwh", "0.5", "--json", "--html", str(out)]) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert (found["n_done"], found["n_failed"], found["n_generated"]) == (12, 1, report.n_generated)
    assert found["generated_tps"] == pytest.approx(report.generated_tps, rel=0.05)
    assert found["cost"]["price_per_1k_tokens"] == pytest.approx(found["cost"]["wh_per_1k_tokens"] * 0.0005)
    times = sorted(line["latency_s"] for line in job.lines("out.metrics.jsonl") if "latency_s" in line)
    assert found["latency_s"]["p50"] == pytest.approx(np.percentile(times, 50), rel=1e-6)
    assert "tokens/s" in out.read_text(encoding="utf-8")
    assert main(["report", str(job.out), str(job.path / "out.metrics.jsonl")]) == 0
    assert "too little to tell" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (lambda path: [str(path / "no.jsonl")], 2, "cannot read"),
        (lambda path: [str(path / "a.metrics.jsonl"), "--price-kwh", "1"], 2, "--watts"),
        (lambda path: [str(path / "a.metrics.jsonl"), "--watts", "-1"], 2, "watts"),
        (lambda path: [str(path / "a.metrics.jsonl"), "--html", "r.txt"], 2, "does not end in"),
        (lambda path: [str(path / "b.metrics.jsonl")], 1, "line 1 of"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: Callable[[Path], list[str]], code: int, said: str
) -> None:
    written(tmp_path / "a.metrics.jsonl", run_line())
    written(tmp_path / "b.metrics.jsonl", b"hello\n")
    assert main(["report", *arguments(tmp_path)]) == code
    assert said in capsys.readouterr().err
