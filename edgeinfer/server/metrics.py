"""What the server counts, for Prometheus, in a registry of its own. Labels are names of models and routes that exist
here, never anything that a client sends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from edgeinfer.core import GenerationStats
from edgeinfer.server.workers.models import Models, Overloaded

__all__ = ["Metrics", "Outcome", "energy_joules"]

_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
_POWERCAP = Path("/sys/class/powercap")


class Outcome:
    """How a request went: its client left, unless somebody says otherwise."""

    def __init__(self) -> None:
        self.word = "left"

    def good(self) -> None:
        self.word = "answered"

    def bad(self, error: BaseException) -> None:
        if isinstance(error, Exception):  # not when the task was cancelled: then the client has left
            self.word = "refused" if isinstance(error, Overloaded) else "failed"


class Metrics:
    """One server's counters. Used on the event loop."""

    def __init__(self, models: Models) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"edgeinfer_{name}", text, ["model", *labels], registry=self.registry)

        def histogram(name: str, text: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(f"edgeinfer_{name}", text, ["model"], buckets=tuple(buckets), registry=self.registry)

        self._requests = counter("requests", "Requests by outcome", "route", "outcome")
        self._seconds = histogram("request_seconds", "Seconds that a request took", _TTFT_S)
        self._first = histogram("time_to_first_token_seconds", "Seconds until the first token", _TTFT_S)
        self._gap = histogram("inter_token_seconds", "Seconds between two tokens of an answer", _GAP_S)
        self._prompt = counter("prompt_tokens", "Tokens of prompts")
        self._reused = counter("cached_tokens", "Tokens of prompts that were known from before", "source")
        self._hits = counter("cache_hits", "Prompts of which some was known from before")
        self._misses = counter("cache_misses", "Prompts of which nothing was known")
        self._generated = counter("generated_tokens", "Tokens of answers")
        self._drafted = counter("drafted_tokens", "Tokens that were guessed ahead")
        self._accepted = counter("accepted_tokens", "Guessed tokens that were the model's own choice")
        self.registry.register(_Machine(models))

    @contextlib.contextmanager
    def request(self, model: str, route: str) -> Iterator[Outcome]:
        """Around a request: counted, timed."""
        outcome, begin = Outcome(), time.monotonic()
        try:
            yield outcome
        except BaseException as error:
            outcome.bad(error)
            raise
        finally:
            self._requests.labels(model, route, outcome.word).inc()
            self._seconds.labels(model).observe(time.monotonic() - begin)

    def token(self, model: str, seconds: float, *, first: bool) -> None:
        (self._first if first else self._gap).labels(model).observe(seconds)

    def answered(self, model: str, stats: GenerationStats) -> None:
        self._prompt.labels(model).inc(stats.n_prompt)
        self._reused.labels(model, "disk").inc(stats.n_restored)
        self._reused.labels(model, "memory").inc(stats.n_reused - stats.n_restored)
        (self._hits if stats.n_reused else self._misses).labels(model).inc()
        self._generated.labels(model).inc(stats.n_generated)
        self._drafted.labels(model).inc(stats.n_drafted)
        self._accepted.labels(model).inc(stats.n_accepted)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self.registry)


class _Machine(Collector):
    """What is looked up when asked for: models, their queues, energy."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        running = GaugeMetricFamily("edgeinfer_running_requests", "Requests being computed", labels=["model"])
        waiting = GaugeMetricFamily("edgeinfer_queued_requests", "Requests that wait for a place", labels=["model"])
        size = GaugeMetricFamily("edgeinfer_model_bytes", "Memory that a model was reckoned to take", labels=["model"])
        for name, model in self._models.open_models().items():
            n_running, n_waiting = model.load if model.n_asked else (0, 0)
            running.add_metric([name], n_running)
            waiting.add_metric([name], n_waiting)
            size.add_metric([name], model.facts.planned_bytes)
        restarts = CounterMetricFamily("edgeinfer_engine_restarts", "Engines that hung or died", labels=["model"])
        for name, n in self._models.n_restarts.items():
            restarts.add_metric([name], n)
        found: list[GaugeMetricFamily | CounterMetricFamily] = [running, waiting, size, restarts]
        joules = energy_joules()
        if joules is not None:
            found.append(CounterMetricFamily("edgeinfer_energy_joules", "Energy of the processor packages", joules))
        return found


def energy_joules(root: Path = _POWERCAP) -> float | None:
    """What the processor packages have used since some time before, where Linux tells (it often tells root alone). The
    counter begins again now and then, as Prometheus expects of one."""
    total = 0.0
    seen = False
    for folder in sorted(root.glob("intel-rapl:*")):
        if folder.name.count(":") != 1:  # parts of a package are in its sum already
            continue
        try:
            total += int((folder / "energy_uj").read_text(encoding="ascii")) / 1e6
            seen = True
        except (OSError, ValueError):
            continue
    return total if seen else None
