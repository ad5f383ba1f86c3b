"""What a model takes to answer: time and memory, in a process that does nothing else.

What models before it have left in a process, and what examining takes, would be in the figures otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.bench import peak_rss_bytes
from edgeinfer.core import SamplingParams
from edgeinfer.errors import EdgeInferError, EngineError
from edgeinfer.evaluate.memory import PeakMemory
from edgeinfer.opening import Opened
from edgeinfer.request import Request, StatsSink
from edgeinfer.sampling import Sampler
from edgeinfer.scheduler import Scheduler
from edgeinfer.side import Side, opened

__all__ = ["Cost", "cost_alone", "cost_here"]

_N_DECODED, _N_TIMES = 24, 3
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from edgeinfer.evaluate.clock import answer; answer()"

TokenIds = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens per second of a prompt and of what follows it, the best of three: what else the machine does can only take
    away from them. ``peak_bytes``: resident, of the whole process."""

    prefill_tps: float
    decode_tps: float
    peak_bytes: int


def cost_alone(side: Side, n_ctx: int, memory: str | int | None, ids: TokenIds) -> Cost:
    """Of a model that a process of its own opens for this. Raises `EngineError` where it does not come to an end."""
    order = {"side": asdict(side), "n_ctx": n_ctx, "memory": memory, "ids": ids.tolist()}
    command = [sys.executable, "-c", _CHILD, *filter(None, sys.path)]  # not -m, which looks into the current folder
    ended = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, encoding="utf-8")
    lines = ended.stdout.splitlines()
    if ended.returncode or not lines:
        why = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise EngineError(f"{side.label} could not be timed: {why}")
    return Cost(**json.loads(lines[-1]))


def answer() -> None:
    """The process of `cost_alone`: its order on standard input, the cost on standard output."""
    order: dict[str, Any] = json.load(sys.stdin)
    try:
        with opened(Side(**order["side"]), order["n_ctx"], order["memory"]) as model:
            prefill_tps, decode_tps = _speed(model, np.array(order["ids"], np.int32))
            print(json.dumps(asdict(Cost(prefill_tps, decode_tps, peak_rss_bytes()))))
    except EdgeInferError as error:
        sys.exit(" ".join(str(error).split()))


def cost_here(model: Opened, ids: TokenIds) -> Cost:
    """Of a model that is open in this process, memory included."""
    with PeakMemory() as peak:
        prefill_tps, decode_tps = _speed(model, ids)
    return Cost(prefill_tps, decode_tps, peak.peak_bytes)


def _speed(model: Opened, ids: TokenIds) -> tuple[float, float]:
    """Through the scheduler, as any answer."""
    engine, params = model.engine, SamplingParams(temperature=0.0)
    ids = ids[: max(1, engine.n_ctx - _N_DECODED - 1)]
    best = (0.0, 0.0)
    for _ in range(_N_TIMES):
        scheduler, sink = Scheduler(engine, n_parallel=1), StatsSink()
        request = Request(ids, Sampler(params, engine.n_vocab, ids), sink, n_ctx=engine.n_ctx, max_tokens=_N_DECODED)
        scheduler.submit(request)
        while not scheduler.idle:
            scheduler.step()
        for seq in range(engine.n_seq_max):
            engine.release(seq)
        best = max(best[0], sink.stats.prefill_tps), max(best[1], sink.stats.decode_tps)
    return best
