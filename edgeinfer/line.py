"""Who is admitted next. First come, first served, except where waiting or overtaking saves computing the same twice.

A prompt whose beginning somebody is reading right now waits until it is read, and others pass. Of several that wait,
one whose beginning is in memory goes before one whose is not, while it is there. Both are bounded: whoever has been
overtaken too often is served before anybody else. Knows token ids and lengths, no engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from edgeinfer.kv import common_prefix
from edgeinfer.request import EmbedRequest, Request

__all__ = ["MOST_OVERTAKEN", "WaitingLine"]

TokenIds = npt.NDArray[np.int32]
Anyone = Request | EmbedRequest

MOST_OVERTAKEN = 16
_WORTH = 32
"""So many tokens less to compute are worth waiting, or overtaking."""
_N_SEEN = 64
"""How far down the line one looks."""


class WaitingLine:
    """`add` may be called from any thread, as may ``len``; everything else from the thread that steps."""

    def __init__(self) -> None:
        self._waiting: list[Anyone] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Anyone) -> None:
        with self._lock:
            self._waiting.append(request)

    def next(self, known: Callable[[TokenIds], int], running: Iterable[Request], block_size: int) -> Anyone | None:
        """Who should be admitted now; None where nobody waits, or all do for what is being read. ``known``: how many
        tokens of a prompt are in memory."""
        with self._lock:
            seen = self._waiting[:_N_SEEN]
        if seen and seen[0].n_overtaken >= MOST_OVERTAKEN:
            seen = seen[:1]
        readers = [request for request in running if request.n_pending > 1]
        best: Anyone | None = None
        n_best = 0
        for request in seen:
            n_known = 0 if isinstance(request, EmbedRequest) else known(request.tokens)
            if isinstance(request, Request) and _being_read(request, readers, block_size) >= n_known + _WORTH:
                continue
            if best is None or n_known >= n_best + _WORTH:
                best, n_best = request, n_known
        return best

    def admitted(self, request: Anyone) -> None:
        """It leaves the line, and has overtaken those before it."""
        with self._lock:
            at = self._waiting.index(request)
            del self._waiting[at]
            for other in self._waiting[:at]:
                other.n_overtaken += 1

    def drop_cancelled(self) -> list[Anyone]:
        with self._lock:
            dropped = [request for request in self._waiting if request.cancelled]
            if dropped:
                self._waiting = [request for request in self._waiting if request not in dropped]
        return dropped

    def clear(self) -> list[Anyone]:
        """Everybody leaves."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        return waiting


def _being_read(request: Request, readers: Iterable[Request], block_size: int) -> int:
    """How much of its prompt will be in memory when those who are reading it have done so."""
    most = 0
    for reader in readers:
        n_common = common_prefix(reader.tokens[: reader.n_prompt], request.tokens[:-1]) // block_size * block_size
        if n_common > reader.n_past:
            most = max(most, n_common)
    return most
