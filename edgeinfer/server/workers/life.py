"""Whether a process still does something, as the operating system tells it from outside."""

from __future__ import annotations

import contextlib

__all__ = ["Signs", "signs"]

Signs = tuple[float, ...]


def signs(pid: int | None) -> Signs:
    """Numbers that change while the process works: its processor time, memory, and the bytes that it has read, where
    the system tells. Nothing where there is no such process."""
    import psutil

    found: list[float] = []
    if pid is None:
        return ()
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        spent = process.cpu_times()
        found += [spent.user + spent.system, process.memory_info().rss]
        if hasattr(process, "io_counters"):  # not on macOS
            found.append(process.io_counters().read_bytes)
    return tuple(found)
