"""When a server may be asked again: one pause for all who ask it, longer the longer it is in trouble."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

__all__ = ["Gate"]

_FIRST_S, _LONGEST_S = 0.5, 60.0


class Gate:
    """Thread-safe. ``patience_s``: so long a server may be in trouble, pauses that it asked for not counted."""

    def __init__(self, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._changed = threading.Condition()
        self._not_before = 0.0
        self._n_troubles = 0
        self._since: float | None = None
        self._asked_s = 0.0
        self._closed = False

    def wait(self) -> bool:
        """Until the server may be asked; false when nobody is to ask any more."""
        with self._changed:
            while not self._closed:
                left = self._not_before - self._clock()
                if left <= 0:
                    return True
                self._changed.wait(left)
            return False

    def good(self) -> None:
        with self._changed:
            self._n_troubles, self._since, self._asked_s = 0, None, 0.0

    def trouble(self, sent_at: float, asked_s: float | None = None) -> tuple[bool, float]:
        """A request that was sent at ``sent_at`` (by the clock) came to nothing; the server may have asked for a pause.
        Returns whether this is the first trouble after something good, and the seconds that nobody asks from now on.
        Raises `TimeoutError` when patience has ended."""
        with self._changed:
            now, first = self._clock(), self._since is None
            if self._since is None:
                self._since = now
            # Of many requests that were under way together, one lengthens the pause.
            if sent_at >= self._not_before or first:
                pause = min(_LONGEST_S, _FIRST_S * 2**self._n_troubles) * random.uniform(0.5, 1.0)
                self._n_troubles += 1
                if asked_s is not None:
                    pause = max(asked_s, pause)
                    self._asked_s += pause
                self._not_before = max(self._not_before, now + pause)
            elif asked_s is not None and now + asked_s > self._not_before:
                self._asked_s += now + asked_s - self._not_before
                self._not_before = now + asked_s
            if now - self._since > self._patience_s + self._asked_s:
                raise TimeoutError
            return first, max(0.0, self._not_before - now)

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
