"""How far a job has come and how long it will take; nothing of how that is shown."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Pace", "Progress", "Watch"]

_RECENT_S = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a job. ``n_rows`` are all that it is about (None: the input does not tell), of which ``n_done`` have
    a result and ``n_failed`` an error, ``n_before`` of both together from earlier runs. ``generated_tps``: tokens a
    second over the last ten. ``eta_s``: seconds left; None before that can be told."""

    n_rows: int | None
    n_done: int
    n_failed: int
    n_before: int
    n_generated: int
    generated_tps: float
    seconds: float
    eta_s: float | None
    rss_bytes: int


Watch = Callable[[Progress], None]


class Pace:
    """Rows ended and tokens made over time, of one run on ``n_places``."""

    def __init__(self, n_places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._n_places = n_places
        self._begin = clock()
        self._n_ended = 0
        self._full: tuple[int, float] | None = None
        self._recent: deque[tuple[float, int]] = deque([(self._begin, 0)])

    @property
    def seconds(self) -> float:
        return self._clock() - self._begin

    def ended(self) -> None:
        """One more row has ended."""
        self._n_ended += 1
        if self._full is None and self._n_ended >= self._n_places:
            # Rows under way have cost time and ended nothing: counting begins when as many have ended as run at once,
            # for then as many are as far as these were.
            self._full = (self._n_ended, self._clock())

    def eta_s(self, n_left: int, n_computing: int = 0) -> float | None:
        """Seconds until ``n_left`` more rows have ended, of which ``n_computing`` are under way."""
        if not n_left:
            return 0.0
        now, half = self._clock(), n_computing / 2  # a row under way is half done, as far as one can tell
        if self._full is not None and self._n_ended >= 3 * self._full[0]:
            n_ended, seconds = float(self._n_ended - self._full[0]), now - self._full[1]
        else:
            n_ended, seconds = self._n_ended + half, now - self._begin
        return (n_left - half) * seconds / n_ended if self._n_ended else None

    def generated(self, n_tokens: int) -> float:
        """``n_tokens`` have been generated so far; returns tokens a second of late."""
        now = self._clock()
        self._recent.append((now, n_tokens))
        while len(self._recent) > 2 and now - self._recent[1][0] > _RECENT_S:
            self._recent.popleft()
        then, n_then = self._recent[0]
        return (n_tokens - n_then) / (now - then) if now > then else 0.0
