"""Whether a process or a thread still does something, as the operating system tells it from outside."""

from __future__ import annotations

import contextlib

__all__ = ["Signs", "signs"]

Signs = tuple[float, ...]


def signs(pid: int | None, thread: int | None = None) -> Signs:
    """Numbers that change while a process works: its processor time, memory, and the bytes that it has read, where the
    system tells. Without a ``pid``, the processor time of a ``thread`` of this process, by its native id: of memory and
    reading nobody knows whose they are. Nothing where there is neither."""
    import psutil

    found: list[float] = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if pid is None:
            return tuple(each.user_time + each.system_time for each in process.threads() if each.id == thread)
        spent = process.cpu_times()
        found += [spent.user + spent.system, process.memory_info().rss]
        if hasattr(process, "io_counters"):  # not on macOS
            found.append(process.io_counters().read_bytes)
    return tuple(found)
