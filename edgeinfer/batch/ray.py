"""Rows over a Ray cluster through Ray Data: one model a machine, the same results as on one machine.

Ray Data moves rows to workers and results back, keeps the workers' queues filled, starts a worker again that has died
and repeats what it had in hand. It reads from files, though, and writes when blocks are full; our job hands rows in one
after the other and wants each result as it comes. So the dataset's source is a read task that never ends: it takes rows
from `Feeder`, an actor that the job fills. Blocks hold one row each (``target_max_block_size``), for Ray Data would
otherwise gather results into blocks of 128 MB, and a job that is killed would lose them all.

Rows and results travel as JSON. A machine that is lost for good takes the rows with it that Ray waits to repeat there:
these are handed in again, and a second result of a row is dropped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from edgeinfer import env
from edgeinfer.batch.compute import Outcome
from edgeinfer.batch.ray_worker import Feeder, Worker, encoded, facts_key
from edgeinfer.batch.rows import Computed, Row
from edgeinfer.core import GenerationStats
from edgeinfer.errors import BackendUnavailable, EdgeInferError, EngineError, UsageError

__all__ = ["N_PLACES", "RayComputer"]

N_PLACES = 16
"""Rows that a worker is handed at once; its model computes as many of them as its machine has memory for."""
_LOOK_S = 2.0
_END_S = 10.0
_OPEN_S = 0.25
_KNOCK_S = 5.0


def _blocks(feeder: Any) -> Iterator[Any]:
    """What the read task does."""
    import pyarrow as pa
    import ray

    while (text := ray.get(feeder.take.remote())) is not None:
        yield pa.table({"row": [text]})


class RayComputer:
    """The rows of a job on the cluster at ``address`` (``auto``: the one that this machine belongs to). ``arguments``:
    of ``opener``, by default those of `ray_worker.open_model`. ``n_workers``: models; None: one for each machine that
    there is now. ``n_places``: rows that each is handed at once. Close it, or use it as a context.

    Raises `BackendUnavailable` without Ray or a cluster, and what keeps the model from opening."""

    def __init__(
        self,
        arguments: Mapping[str, Any],
        *,
        opener: str = "edgeinfer.batch.ray_worker:open_model",
        address: str = "auto",
        n_workers: int | None = None,
        n_places: int = N_PLACES,
        n_gpus: int = 0,
    ) -> None:
        self._ray, self._started = _connected(address)
        self.said: Callable[[str], None] = lambda _line: None
        self.n_generated = 0
        self._ended: queue.SimpleQueue[dict[str, Any] | EdgeInferError] = queue.SimpleQueue()
        self._under_way: dict[str, tuple[Row, float]] = {}
        self._nodes = self._alive()
        self._lost: set[str] = set()
        self._looked_at = time.monotonic()
        self._closed = False
        self.n_workers = n_workers or max(1, len(self._nodes))
        self.n_places = n_places * self.n_workers
        own = self._ray.get_runtime_context().get_node_id()
        beside = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(own, soft=False)
        self._feeder = self._ray.remote(Feeder).options(num_cpus=0, scheduling_strategy=beside).remote()
        dataset = self._dataset(opener, dict(arguments), n_places, n_gpus, beside)
        self._thread = threading.Thread(target=self._listen, args=(dataset,), name="edgeinfer-ray", daemon=True)
        self._thread.start()
        try:
            self._facts = self._first_facts()
        except BaseException:
            self.close()
            raise
        self._facts_key = facts_key(self._facts)
        self.model = str(self._facts["model"]["name"])

    def _dataset(self, opener: str, arguments: dict[str, Any], n_places: int, n_gpus: int, beside: Any) -> Any:
        from ray.data import ActorPoolStrategy, DataContext, Datasource, read_datasource
        from ray.data.block import BlockMetadata
        from ray.data.datasource import ReadTask

        context = DataContext.get_current()
        context.target_max_block_size = 1
        context.enable_progress_bars = False
        context.enable_operator_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what matters of it, we say
        feeder = self._feeder

        class Rows(Datasource):  # type: ignore[misc]
            def estimate_inmemory_data_size(self) -> int | None:
                return None

            def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
                return [
                    ReadTask(
                        lambda: _blocks(feeder),
                        BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None),
                    )
                ]

        rows = read_datasource(
            Rows(), override_num_blocks=1, ray_remote_args={"num_cpus": 0, "scheduling_strategy": beside}
        )
        pool = ActorPoolStrategy(
            size=self.n_workers,
            max_concurrent_calls_per_actor=n_places,
            max_tasks_in_flight_per_actor=2 * n_places,
            enable_true_multi_threading=True,
        )
        # As many processors as the smallest machine has: then no machine has room for two models.
        n_cpus = max(1, int(min((node["Resources"].get("CPU", 1) for node in self._nodes.values()), default=1)))
        return rows.map_batches(
            Worker,
            fn_constructor_args=(opener, arguments, feeder),
            batch_size=None,
            compute=pool,
            num_cpus=n_cpus,
            num_gpus=n_gpus or None,
            scheduling_strategy="SPREAD",
        )

    def _alive(self) -> dict[str, Any]:
        return {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}

    def _listen(self, dataset: Any) -> None:
        """Results as they come, from a thread of their own: Ray Data's iterators wait without an end."""
        try:
            # Without looking ahead: a result that waits for the next one is not on disk.
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                for text in batch["result"]:
                    self._ended.put(json.loads(str(text)))
        except Exception as error:
            lines = str(error).strip().splitlines()
            self._ended.put(EngineError(f"Ray: {type(error).__name__}: {lines[-1] if lines else error}"[:500]))
        else:
            self._ended.put(EngineError("Ray has ended the job"))

    def _first_facts(self) -> dict[str, Any]:
        self._feeder.put.remote("")
        while True:
            with contextlib.suppress(queue.Empty):
                first = self._ended.get(timeout=_OPEN_S)  # in short waits: Ctrl-C is heard between them
                if isinstance(first, EdgeInferError):
                    raise first
                if "ends" in first:
                    raise BackendUnavailable(first["ends"])
                facts: dict[str, Any] = first["facts"]
                return facts

    # ---- the seam

    def facts(self) -> dict[str, Any]:
        """Those of the model on the workers: a job begun on one machine goes on here, and the other way round."""
        return self._facts

    def submit(self, row: Row) -> None:
        self._under_way[row.name] = (row, time.monotonic())
        self._feeder.put.remote(encoded(row))

    def next(self, timeout_s: float) -> tuple[Row, Outcome] | None:
        self._look_around()
        try:
            ended = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(ended, EdgeInferError):
            raise ended
        if "ends" in ended:
            raise EngineError(ended["ends"])
        row, submitted = self._under_way.pop(ended["name"], (None, 0.0))
        if row is None:  # computed twice
            return None
        if ended["facts_key"] != self._facts_key:
            raise EngineError("the workers do not have the same model, or versions: install the same on all machines")
        if "bad" in ended:
            return row, UsageError(ended["bad"])
        if "fault" in ended:
            return row, EngineError(ended["fault"])
        stats = GenerationStats(**ended["stats"])
        # The worker's clock begins when the row has come to it; before, it was in Ray's queues.
        waited = max(0.0, time.monotonic() - submitted - stats.total_s)
        times = {name: getattr(stats, name) + waited for name in ("queue_s", "ttft_s", "total_s")}
        self.n_generated += stats.n_generated
        return row, Computed(ended["body"], dataclasses.replace(stats, **times))

    def cancel(self) -> None:
        """Whatever is under way is lost with its source."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(Exception):
                self._ray.kill(self._feeder)

    def close(self) -> None:
        """End the workers, and the connection where it was made here. Closing twice is harmless."""
        # Ray waits for what a lost machine had in hand; of that nobody wants to know any more.
        if not self._closed and not self._lost and not self._under_way:
            with contextlib.suppress(Exception):
                self._ray.get(self._feeder.put.remote(None), timeout=_END_S)
                self._thread.join(_END_S)
        self.cancel()
        self._thread.join(_END_S)
        if self._started:
            self._started = False
            self._ray.shutdown()

    def __enter__(self) -> RayComputer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _look_around(self) -> None:
        """Hand in again what a lost machine had: all that no living one has begun."""
        now = time.monotonic()
        if now < self._looked_at + _LOOK_S:
            return
        self._looked_at = now
        alive = self._alive()
        lost = self._nodes.keys() - alive.keys() - self._lost
        self._nodes |= alive
        if not lost:
            return
        self._lost |= lost
        begun = self._ray.get(self._feeder.begun.remote(list(alive)))
        again = [row for name, (row, _) in self._under_way.items() if name not in begun]
        self.said(f"{len(lost)} of the cluster's machines are lost; {len(again)} rows are computed again")
        for row in again:
            self._feeder.put.remote(encoded(row))


def _knock(address: str) -> None:
    """Raises `ConnectionError` where nobody listens at ``host:port``: Ray would go on asking. Other forms of an address
    are Ray's to read."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"{address}: {error}") from error


def _connected(address: str) -> tuple[Any, bool]:
    """(Ray, whether we have connected it). Raises `BackendUnavailable`."""
    cluster = env.ray()
    try:
        import ray
        import ray.data
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise BackendUnavailable(f"--engine ray needs Ray: pip install 'edgeinfer[ray]' ({error})") from error
    if ray.is_initialized():
        return ray, False
    ours = signal.getsignal(signal.SIGTERM)
    try:
        _knock(cluster or "" if address == "auto" else address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BackendUnavailable(
            "no Ray cluster is here: run 'ray start --head' on one machine, and on the others what it prints "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)  # Ray's would end the process where it stands
    return ray, True
