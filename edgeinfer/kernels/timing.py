"""How fast threads do something together. Knows nothing of what they do."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable

from edgeinfer.errors import UsageError

__all__ = ["rate"]


def rate(work: Callable[[int, int], int], n_threads: int, seconds: float) -> float:
    """Units per second that ``work(thread, n_calls)`` reports from ``n_threads`` threads that start together.

    Each thread counts with the median of its calls, so that one which was interrupted does not. A call should take
    about a millisecond: short enough to stop in time, long enough that Python does not count. Stops soon when it is
    interrupted. Raises `UsageError`, and what ``work`` raises."""
    if n_threads < 1:
        raise UsageError(f"n_threads is {n_threads}, but must be at least 1")
    together = threading.Barrier(n_threads)
    stop = threading.Event()
    medians: list[float] = []
    failures: list[BaseException] = []

    def run(thread: int) -> None:
        rates: list[float] = []
        try:
            work(thread, 0)  # wakes the core and touches the pages
            together.wait()
            begin = now = time.perf_counter()
            while now - begin < seconds and not stop.is_set():
                last = now
                done = work(thread, len(rates))
                now = time.perf_counter()
                rates.append(done / (now - last))
            medians.append(statistics.median(rates) if rates else 0.0)
        except threading.BrokenBarrierError:
            pass  # another one has failed, and says so
        except BaseException as failure:
            failures.append(failure)
            together.abort()

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(n_threads)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C: what the threads use must not go before them
        stop.set()
        together.abort()
        for thread in threads:
            with contextlib.suppress(RuntimeError):  # never started
                thread.join()
        raise
    if failures:
        raise failures[0]
    return sum(medians)
