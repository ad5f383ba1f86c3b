"""Thread counts, measured on this machine and remembered for each model.

The best count is not the number of cores: hyper-threads, efficiency cores, containers and shared memory bandwidth all
move it, and prefill (compute) and decode (bandwidth) want different ones."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer import device, env
from edgeinfer.bench import bench_tokens
from edgeinfer.core import MAX_THREADS, ModelInfo
from edgeinfer.engines import Engine
from edgeinfer.engines.base import Slice
from edgeinfer.files import atomic_write

__all__ = ["Tuned", "candidates", "forget", "measure", "recall", "remember", "remembered"]

_N_PREFILL = 256
_N_DECODE = 12
_GOOD_ENOUGH = 0.97
"""Fewer threads win when they reach this share of the best: they leave the machine usable, and cooler."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The chosen counts and what was measured: threads -> tokens per second."""

    model: str
    machine: str
    n_threads: int
    n_threads_batch: int
    decode_tps: Mapping[int, float]
    prefill_tps: Mapping[int, float]


def candidates(n_max: int) -> tuple[int, ...]:
    """Counts worth trying: all up to 8, then every second, then every fourth."""
    counts = [*range(1, min(n_max, 8) + 1), *range(10, min(n_max, 16) + 1, 2), *range(20, n_max + 1, 4)]
    return tuple(sorted({*counts, n_max}))


def measure(engine: Engine, model: ModelInfo, counts: Sequence[int], said: Callable[[str], None]) -> Tuned:
    """Time prefill and decode with each count and choose. The engine's sequence 0 is overwritten and released."""
    tokens = bench_tokens(engine.n_vocab, _N_PREFILL)
    prefill_tps, decode_tps = {}, {}
    for n_threads in counts:
        said(f"{n_threads} threads")
        engine.set_threads(n_threads, n_threads)
        prefill_tps[n_threads], decode_tps[n_threads] = _rates(engine, tokens)
    return Tuned(_model_key(model), device.machine_key(), best(decode_tps), best(prefill_tps), decode_tps, prefill_tps)


def best(rates: Mapping[int, float]) -> int:
    """The fewest threads that come close to the best rate."""
    top = max(rates.values())
    return min(n for n, rate in rates.items() if rate >= _GOOD_ENOUGH * top)


def _rates(engine: Engine, tokens: np.ndarray[Any, np.dtype[np.int32]]) -> tuple[float, float]:
    prefill, decode = [], []
    chunk = tokens[: engine.n_batch]
    for _ in range(2):
        engine.release(0)
        begin = time.perf_counter()
        engine.forward([Slice(0, chunk, 0, 1)])
        prefill.append(time.perf_counter() - begin)
    for i in range(_N_DECODE):
        begin = time.perf_counter()
        engine.forward([Slice(0, tokens[i : i + 1], len(chunk) + i, 1)])
        decode.append(time.perf_counter() - begin)
    engine.release(0)
    return len(chunk) / min(prefill), 1 / statistics.median(decode)


# ---- memory of it


def _store() -> Path:
    return env.cache_dir() / "tune.json"


def _model_key(model: ModelInfo) -> str:
    """The same for the same weights wherever the file lies."""
    return f"{model.architecture}-{model.n_params}-{model.bits_per_weight:.2f}bpw"


def remembered() -> list[Tuned]:
    """All that was measured on this or another machine. A damaged store counts as empty: it can be measured again."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        return [_parsed(entry) for entry in json.loads(_store().read_text())["tuned"]]
    return []


def _parsed(entry: dict[str, Any]) -> Tuned:
    found = Tuned(
        model=str(entry["model"]),
        machine=str(entry["machine"]),
        n_threads=int(entry["n_threads"]),
        n_threads_batch=int(entry["n_threads_batch"]),
        decode_tps={int(n): float(rate) for n, rate in entry["decode_tps"].items()},
        prefill_tps={int(n): float(rate) for n, rate in entry["prefill_tps"].items()},
    )
    if not (1 <= found.n_threads <= MAX_THREADS and 1 <= found.n_threads_batch <= MAX_THREADS):
        raise ValueError("thread counts out of range")
    return found


def recall(model: ModelInfo) -> Tuned | None:
    """What was measured for these weights on this machine."""
    key, machine = _model_key(model), device.machine_key()
    return next((tuned for tuned in remembered() if (tuned.model, tuned.machine) == (key, machine)), None)


def remember(tuned: Tuned) -> None:
    """Keep a measurement, replacing an older one of the same model and machine."""
    others = [old for old in remembered() if (old.model, old.machine) != (tuned.model, tuned.machine)]
    atomic_write(_store(), json.dumps({"version": 1, "tuned": [asdict(entry) for entry in (*others, tuned)]}, indent=1))


def forget(model: ModelInfo) -> bool:
    """Drop what was measured for these weights on this machine; false when there was nothing."""
    found = recall(model)
    if found is None:
        return False
    entries = [asdict(old) for old in remembered() if old != found]
    atomic_write(_store(), json.dumps({"version": 1, "tuned": entries}, indent=1))
    return True
