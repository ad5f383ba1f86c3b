"""What a model costs on this machine, measured through the scheduler's own path.

The figures mean the same for every engine: a prefill of 512 tokens, forward passes of 1 to 16 tokens of one sequence,
steps of 1 to 16 sequences, and one answer end to end with tokenizing, sampling and decoding to text included. Quote
ratios from one run, never absolute times."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from edgeinfer import kernels
from edgeinfer.core import SamplingParams
from edgeinfer.coverage import work
from edgeinfer.described import Described
from edgeinfer.engines import Engine, EngineConfig
from edgeinfer.engines.base import KVType, Slice
from edgeinfer.request import Request, StatsSink
from edgeinfer.sampling import Sampler
from edgeinfer.scheduler import Scheduler

__all__ = ["Measured", "Shares", "bench_config", "measure", "peak_rss_bytes", "shares"]

VERIFY = (1, 2, 3, 4, 5, 6, 8, 12, 16)
BATCH = (1, 2, 4, 8, 16)
N_PREFILL = 512
_N_BATCH_PAST = 128
_GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)

TokenIds = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Measured:
    """``verify_ms[m]``: one pass of m tokens of one sequence at ``n_past``, logits of all, in milliseconds (median of
    8). ``batch_tps[b]``: b sequences of 128 tokens, one token each a step, tokens per second of all (16 steps).
    ``prefill_tps``: 512 tokens into an empty cache (median of 3). ``decode_tps``: 1000 / verify_ms[1]."""

    engine: str
    n_past: int
    n_threads: int
    prefill_tps: float
    decode_tps: float
    verify_ms: dict[int, float] = field(default_factory=dict)
    batch_tps: dict[int, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Shares:
    """Of what this machine does at most with as many threads, the part that was reached. ``decode_bandwidth``: bytes of
    weights that decode reads in a second over the measured read bandwidth. ``prefill_int8``: operations a second of
    prefill's matrix products over the measured int8 peak of the instruction set in use. Bytes and operations are those
    of the weights, from the file's header: attention, keys and values are not counted, and products of floats count
    like those of quantized weights."""

    decode_bandwidth: float
    prefill_int8: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def shares(file: Described, measured: Measured) -> Shares | None:
    """Measures the machine for half a second; None without our library, which holds the probes."""
    if not kernels.available():
        return None
    cost = work(file)
    bandwidth, peak = kernels.read_bandwidth(measured.n_threads), kernels.int8_peak(measured.n_threads)
    prefill_ops_per_s = cost.prefill_ops(N_PREFILL) * measured.prefill_tps / N_PREFILL
    return Shares(cost.decode_bytes * measured.decode_tps / bandwidth, prefill_ops_per_s / peak)


def bench_config(n_past: int, kv_type: KVType = "f16") -> EngineConfig:
    """How an engine is opened to be measured: 16 sequences that share one cache."""
    n_ctx = max(4096, n_past + 2048)
    return EngineConfig(
        n_ctx=n_ctx,
        n_seq_max=max(BATCH),
        n_cells=n_ctx,
        kv_type=kv_type,
    )


def bench_tokens(n_vocab: int, n_past: int) -> TokenIds:
    """The token ids that all figures are measured on: drawn with a fixed seed, clear of the ends of the vocabulary
    where it has room for that."""
    low, high = (100, n_vocab - 1000) if n_vocab > 2000 else (0, n_vocab)
    return np.random.default_rng(0).integers(low, high, max(N_PREFILL, n_past)).astype(np.int32)


def measure(engine: Engine, name: str, *, n_past: int, n_threads: int, said: Callable[[str], None]) -> Measured:
    """Measure an engine opened with `bench_config`. ``said`` hears what is being measured."""
    tokens = bench_tokens(engine.n_vocab, n_past)
    scheduler = Scheduler(engine)
    said("prefill")
    prefill_tps = N_PREFILL / statistics.median(_prefill_s(scheduler, engine, tokens[:N_PREFILL]) for _ in range(3))
    said(f"1 token a pass at {n_past}")
    verify_ms = {1: 1e3 * _decode_s(scheduler, engine, tokens[:n_past])}
    _fill(engine, tokens[:n_past])
    for m in VERIFY[1:]:
        said(f"{m} tokens a pass at {n_past}")
        verify_ms[m] = 1e3 * _verify_s(engine, tokens, n_past, m)
    batch_tps = {}
    for b in BATCH:
        said(f"{b} sequences")
        batch_tps[b] = _batch_tps(scheduler, engine, tokens, b)
    scheduler.forget()
    return Measured(name, n_past, n_threads, prefill_tps, 1e3 / verify_ms[1], verify_ms, batch_tps)


def _request(engine: Engine, ids: TokenIds, max_tokens: int) -> Request:
    sampler = Sampler(_GREEDY, engine.n_vocab, ids)
    return Request(ids, sampler, StatsSink(), n_ctx=engine.n_ctx, max_tokens=max_tokens)


def _prefill_s(scheduler: Scheduler, engine: Engine, ids: TokenIds) -> float:
    """Seconds from submission to the first token."""
    scheduler.forget()
    scheduler.submit(_request(engine, ids, 1))
    begin = time.perf_counter()
    while not scheduler.idle:
        scheduler.step()
    return time.perf_counter() - begin


def _decode_s(scheduler: Scheduler, engine: Engine, ids: TokenIds) -> float:
    """Median seconds of a whole scheduler step, sampling included, of the 8 after the prompt."""
    scheduler.forget()
    request = _request(engine, ids, 9)
    scheduler.submit(request)
    while request.n_generated < 1:
        scheduler.step()
    times = []
    while not scheduler.idle:
        begin = time.perf_counter()
        scheduler.step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _fill(engine: Engine, ids: TokenIds) -> None:
    """Leave nothing in the cache but these tokens, in sequence 0."""
    for seq in range(engine.n_seq_max):
        engine.release(seq)
    for begin in range(0, len(ids), engine.n_batch):
        engine.forward([Slice(0, ids[begin : begin + engine.n_batch], begin, 0)])


def _verify_s(engine: Engine, tokens: TokenIds, n_past: int, m: int) -> float:
    """Median seconds of a pass that checks ``m`` tokens; the cache is rewound before each."""
    times = []
    for _ in range(8):
        engine.truncate(0, n_past)
        begin_s = time.perf_counter()
        engine.forward([Slice(0, tokens[:m], n_past, m)])
        times.append(time.perf_counter() - begin_s)
    engine.truncate(0, n_past)
    return statistics.median(times)


def _batch_tps(scheduler: Scheduler, engine: Engine, tokens: TokenIds, n_sequences: int) -> float:
    scheduler.forget()
    requests = [_request(engine, tokens[8 * i : 8 * i + _N_BATCH_PAST], 18) for i in range(n_sequences)]
    for request in requests:
        scheduler.submit(request)
    while not all(request.n_generated for request in requests):
        scheduler.step()
    before = sum(request.n_generated for request in requests)
    begin = time.perf_counter()
    for _ in range(16):
        scheduler.step()
    spent = time.perf_counter() - begin
    n_tokens = sum(request.n_generated for request in requests) - before
    for request in requests:
        scheduler.cancel(request)
    scheduler.step()
    return n_tokens / spent


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """One chat answer as a user sees it: template, tokenizing, sampling and decoding to text included. Times between
    the arrivals of tokens in milliseconds."""

    n_prompt: int
    n_generated: int
    ttft_s: float
    prefill_tps: float
    decode_tps: float
    p50_ms: float
    p95_ms: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def first_logits(engine: Engine) -> None:
    """The first forward pass, of 8 tokens: after it a model counts as loaded."""
    engine.forward([Slice(0, bench_tokens(engine.n_vocab, 8)[:8], 0, 1)])
    engine.release(0)


def end_to_end(model: str, question: str, max_tokens: int, **arguments: Any) -> EndToEnd:
    """Ask a question through an `LLM` with these ``arguments``, with default sampling. A model without a chat template
    gets it as plain text."""
    from edgeinfer.llm import LLM

    with LLM(model, **arguments) as llm:
        prompt = [{"role": "user", "content": question}] if llm.info.chat_template else question
        for _ in llm.stream(prompt, max_tokens=2, seed=0):  # first touch of weights and buffers
            pass
        llm.forget()
        arrivals = []
        stream = llm.stream(prompt, max_tokens=max_tokens, seed=0, ignore_eos=True)
        for _ in stream:
            arrivals.append(time.perf_counter())
        stats = stream.answer.stats
    p50_ms, p95_ms = inter_token_ms(arrivals)
    return EndToEnd(
        stats.n_prompt, stats.n_generated, stats.ttft_s, stats.prefill_tps, stats.decode_tps, p50_ms, p95_ms
    )


def inter_token_ms(arrivals_s: Sequence[float]) -> tuple[float, float]:
    """(p50, p95) of the gaps between tokens that arrived at these times, in milliseconds."""
    gaps = np.diff(np.asarray(arrivals_s)) * 1e3
    return (float(np.percentile(gaps, 50)), float(np.percentile(gaps, 95))) if len(gaps) else (0.0, 0.0)


def peak_rss_bytes() -> int:
    """The most resident memory that this process has had."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    with contextlib.suppress(OSError):  # Linux lets ru_maxrss begin at what the parent held when it forked
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
