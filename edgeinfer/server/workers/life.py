"""Whether a process or a thread still does something, as the operating system tells it from outside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["Signs", "signs"]

Signs = tuple[float, ...]
_PROC = Path("/proc")


def signs(pid: int | None, thread: int | None = None) -> Signs:
    """Numbers that change while a process works: its processor time, memory, and the bytes that it has read, where the
    system tells. Without a ``pid``, the processor time of a ``thread`` of this process, by its native id: of memory and
    reading nobody knows whose they are. Nothing where there is neither."""
    import psutil

    found: list[float] = [_spent_ns(pid or os.getpid(), None if pid is not None else thread)]
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if pid is None:
            return (*found, *(each.user_time + each.system_time for each in process.threads() if each.id == thread))
        spent = process.cpu_times()
        found += [spent.user + spent.system, process.memory_info().rss]
        if hasattr(process, "io_counters"):  # not on macOS
            found.append(process.io_counters().read_bytes)
    return tuple(found)


def _spent_ns(pid: int, thread: int | None) -> float:
    """Nanoseconds that its threads, or one of them, were on a processor, where Linux tells; else 0. Ticks of 10 ms,
    which is what psutil knows, would hide somebody who only looks now and then whether a lock is free."""
    total = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for task in (_PROC / str(pid) / "task").iterdir():
            if thread is None or task.name == str(thread):
                total += int((task / "schedstat").read_bytes().split()[0])
    return total
