"""What this machine can do at most: bytes read from memory and int8 products summed in a second.

Knows nothing of what is to be computed.
"""

from __future__ import annotations

import numpy as np

from edgeinfer.errors import BackendUnavailable, UsageError
from edgeinfer.kernels.library import best_isa, isa_number, load
from edgeinfer.kernels.timing import rate


def read_bandwidth(
    n_threads: int, seconds: float = 0.3, *, buffer_bytes: int = 256 << 20, isa: str | None = None
) -> float:
    """Bytes per second that ``n_threads`` threads read from memory together.

    Streams through ``buffer_bytes`` that are allocated for the duration: take more than four last-level caches.
    ``isa`` (default: the one in use) chooses the width of the loads. Raises `BackendUnavailable`, `UsageError`.
    """
    library, number = load(), isa_number(isa)
    share = buffer_bytes // max(1, n_threads) // 4096 * 4096
    if share == 0:
        raise UsageError(f"buffer_bytes is {buffer_bytes}, but must be at least 4096 for each of {n_threads} threads")
    memory = np.ones(share * max(1, n_threads) + 4096, dtype=np.uint8)
    start = -memory.ctypes.data % 4096 + memory.ctypes.data
    # One call takes about a millisecond.
    piece = min(share, 8 << 20)

    def work(thread: int, n_calls: int) -> int:
        at = start + thread * share + n_calls * piece % (share // piece * piece)
        return piece if library.ei_probe_read(number, at, piece) else 0

    return _seen(rate(work, n_threads, seconds), f"read bandwidth with {isa or best_isa()}")


def int8_peak(n_threads: int, seconds: float = 0.2, *, isa: str | None = None) -> float:
    """Int8 multiply-accumulates per second on registers, two operations each, of ``n_threads`` threads together.

    The ceiling of a quantized matrix product with ``isa`` (default: the one in use). Raises as `read_bandwidth`.
    """
    library, number = load(), isa_number(isa)

    def work(thread: int, n_calls: int) -> int:  # noqa: ARG001
        return int(library.ei_probe_int8(number, 100_000))

    return _seen(rate(work, n_threads, seconds), f"int8 peak with {isa or best_isa()}")


def _seen(rate: float, what: str) -> float:
    if rate == 0:
        raise BackendUnavailable(f"no probe for {what} in this build")
    return rate
