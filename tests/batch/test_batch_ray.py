"""A job on a cluster of two nodes of this machine: it writes what one machine writes, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray_models

from edgeinfer import batch
from edgeinfer.batch.ray import RayComputer
from edgeinfer.batch.ray_worker import decoded, encoded
from edgeinfer.batch.rows import Row
from edgeinfer.core import Grammar
from edgeinfer.errors import BackendUnavailable

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform == "win32", reason="Ray's own tests of clusters do not run there"),
    # Ray leaves sockets and files to the collector, and warns of what it will change.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a processor each, which find our tests' modules and are told nothing to tell on."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    paths = [os.environ.get("PYTHONPATH", ""), str(Path(ray_models.__file__).parent)]
    os.environ.update(PYTHONPATH=os.pathsep.join(paths), RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0")
    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=node)
    try:
        found.add_node(**{name: value for name, value in node.items() if name != "include_dashboard"})
        yield found
    finally:
        found.shutdown()
        os.environ.clear()
        os.environ.update(before)


def write(path: Path, n_rows: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"question {i}", "id": str(i % 40)}) + "\n" for i in range(n_rows)))
    return path


def computer(cluster: Any, **arguments: Any) -> RayComputer:
    return RayComputer(arguments, opener=ray_models.OPENER, address=cluster.address, n_places=4)


def on_one_machine(source: Path, out: Path) -> list[bytes]:
    with ray_models.open_scripted() as llm:
        batch.run(source, llm, out, temperature=0.0, max_tokens=8)
    return sorted(out.read_bytes().splitlines())


def workers() -> list[psutil.Process]:
    """Processes that hold a model: Ray names them after what they run."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "MapWorker(MapBatches(Worker))" in " ".join(process.cmdline())
    ]


def test_the_same_bytes_as_on_one_machine(cluster: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", 60)
    with source.open("a") as stream:
        stream.write('{"prompt": 3}\n' + json.dumps({"prompt": "x" * 2000}) + "\n")
    whole = on_one_machine(source, tmp_path / "one.jsonl")
    out = tmp_path / "out.jsonl"
    with computer(cluster) as found:
        assert (found.n_workers, found.n_places) == (2, 8)
        report = batch.run(source, found, out, temperature=0.0, max_tokens=8, limit=20)
        assert report.n_done == 20
        assert len(workers()) == 2
        report = batch.run(source, found, out, temperature=0.0, max_tokens=8)
    assert (report.n_before, report.n_done, report.n_failed, report.complete) == (20, 60, 2, True)
    assert sorted(out.read_bytes().splitlines()) == whole
    errors = [(tmp_path / f"{name}.errors.jsonl").read_bytes().splitlines() for name in ("one", "out")]
    assert sorted(errors[0]) == sorted(errors[1])
    assert report.n_generated == 40 * 8
    assert not ray.is_initialized()
    with ray_models.open_scripted() as llm:  # a job goes on wherever it is
        assert batch.run(source, llm, out, temperature=0.0, max_tokens=8).n_before == 62


def test_a_worker_that_dies_midway_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    """And results are on disk as they come, not when the job ends."""
    source, out = write(tmp_path / "in.jsonl", 80), tmp_path / "out.jsonl"
    whole = on_one_machine(source, tmp_path / "one.jsonl")
    killed: list[int] = []

    def watch(now: batch.Progress) -> None:
        if not killed and now.n_done >= 10:
            assert len(out.read_bytes().splitlines()) >= 10
            victim = workers()[0]
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)

    with computer(cluster, step_s=0.02) as found:
        report = batch.run(source, found, out, temperature=0.0, max_tokens=8, watch=watch)
    assert killed
    assert (report.n_done, report.n_failed, report.complete) == (80, 0, True)
    assert sorted(out.read_bytes().splitlines()) == whole


def test_a_machine_that_is_lost_for_good(cluster: Any, tmp_path: Path) -> None:
    """There is nowhere else to repeat what it had in hand but with the other worker."""
    source, out = write(tmp_path / "in.jsonl", 60), tmp_path / "out.jsonl"
    whole = on_one_machine(source, tmp_path / "one.jsonl")
    node = next(iter(cluster.worker_nodes))
    said: list[str] = []
    lost = threading.Event()

    def watch(now: batch.Progress) -> None:
        if not lost.is_set() and now.n_done >= 8:
            lost.set()
            cluster.remove_node(node, allow_graceful=False)

    try:
        with computer(cluster, step_s=0.02) as found:
            found.said = said.append
            report = batch.run(source, found, out, temperature=0.0, max_tokens=8, watch=watch)
    finally:
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    assert lost.is_set()
    assert (report.n_done, report.n_failed) == (60, 0)
    assert sorted(out.read_bytes().splitlines()) == whole
    assert "1 of the cluster's machines are lost" in said[0]


def test_a_row_that_kills_its_worker_ends_in_the_errors(cluster: Any, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    with source.open("a") as stream:
        stream.write('{"prompt": "CRASH"}\n')
    with computer(cluster) as found:
        report = batch.run(source, found, out, temperature=0.0, max_tokens=8, max_attempts=1)
    assert (report.n_done, report.n_failed) == (3, 1)
    (error,) = (json.loads(line) for line in (tmp_path / "out.errors.jsonl").read_text().splitlines())
    assert error["error"]["message"] == "line 4: its worker has died 2 times while it was computed"


def test_what_keeps_a_model_from_opening_is_told(cluster: Any) -> None:
    begin = time.monotonic()
    with pytest.raises(BackendUnavailable, match="a worker cannot open the model: no model 'x'"):
        computer(cluster, fails=True)
    assert time.monotonic() - begin < 120
    assert not ray.is_initialized()


def test_without_a_cluster() -> None:
    begin = time.monotonic()
    with pytest.raises(BackendUnavailable, match="ray start --head"):
        RayComputer({}, address="127.0.0.1:1")
    assert time.monotonic() - begin < 30


def test_rows_as_text() -> None:
    options = {"grammar": Grammar("regex", "a"), "logit_bias": {5: 1.0}, "seed": 2**64 - 1, "stop": ["x"], "top_p": 0.1}
    messages = [{"role": "user", "content": "half a character: \ud800"}]
    for row in (
        Row(3, 4, "0" * 16, "chat", messages, "id", options, 2, model="m"),
        Row(0, 1, "0" * 16, "embedding", "", texts=("a", "b")),
        Row(0, 1, "0" * 16, "completion", [1, 2, 3], options={"logprobs": 0}),
    ):
        assert decoded(encoded(row)) == row
