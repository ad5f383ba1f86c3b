"""How much memory this process takes at most while something runs."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

__all__ = ["PeakMemory"]

_PERIOD_S = 0.02


class PeakMemory:
    """Looks at the resident size fifty times a second: a process's own record of its peak cannot be begun again for a
    second model."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="edgeinfer-memory", daemon=True)
        self.peak_bytes = 0

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, int(self._process.memory_info().rss))

    def _watch(self) -> None:
        while not self._over.wait(_PERIOD_S):
            self._look()

    def __enter__(self) -> PeakMemory:
        self._look()
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._watcher.join()
        self._look()
