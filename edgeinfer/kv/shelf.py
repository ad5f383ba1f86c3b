"""Between the sequences in memory and the store on disk: what is worth saving, what is worth reading, and the thread
that writes. Knows token ids and states as bytes; of engines only how fast they read prompts.

A state is saved where reading it again will take less time than computing what no saved state has yet, and read back
where that is quicker than computing. Writing takes the states one after the other, from copies that take no more
memory together than ``room_bytes``; what finds no room stays where it is, and is asked for again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from edgeinfer.kv.fingerprint import Fingerprint
from edgeinfer.kv.prefix import common_prefix
from edgeinfer.kv.store import Found, Store

__all__ = ["Shelf"]

TokenIds = npt.NDArray[np.int32]

_N_LEAST = 64
"""Fewer tokens than this are computed again: a file for each would be in the way of those that matter."""
_CLOSE_S = 10.0
_LEARN = 0.3  # weight of the newest measurement
_N_MEASURED = 32  # a pass of fewer prompt tokens says little about reading prompts
_OPEN_S = 0.005  # finding and opening a file
_READ_BPS = 300e6  # until one was read; most of it goes into the checksum
_PREFILL_TPS = 1000.0  # until a prompt was read; few machines are faster
_WAIT_PART = 0.05  # of what computing would take, at most, is waited for the weights' hash


class Shelf:
    """Saved states of one model. ``identity`` is what they depend on, or a function that says it: that may take a
    while, and until it has, nothing is found or kept. It raises `OSError` where it cannot be told, and then nothing
    ever is. ``room_bytes``: of copies on their way to disk. ``whole``: states cannot be cut. ``token_bytes``: of state,
    about. ``said`` is told, in a line, of what goes wrong; from any thread.

    `find`, `loading`, `keep` and `wants` are called from the engine's thread, the others from any.
    """

    def __init__(
        self,
        store: Store,
        identity: Fingerprint | Callable[[], Fingerprint],
        *,
        room_bytes: int,
        token_bytes: float,
        whole: bool = False,
        said: Callable[[str], None] = lambda _line: None,
        close_s: float = _CLOSE_S,
    ) -> None:
        self._store = store
        self._identity = identity
        self._room_bytes = room_bytes
        self._token_bytes = token_bytes
        self._whole = whole
        self._said = said
        self._close_s = close_s
        self._deadline: float | None = None
        self._prefill_tps, self._read_bps = _PREFILL_TPS, _READ_BPS
        self._refused: set[str] = set()
        self._told: set[str] = set()
        self._changed = threading.Condition()  # guards what follows
        self._fingerprint = identity if isinstance(identity, Fingerprint) else None
        self._off = self._closing = False
        self._queue: deque[tuple[TokenIds, memoryview]] = deque()
        self._pending: list[TokenIds] = []  # tokens of what is queued or being written
        self._bytes = 0
        self._wake: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="edgeinfer-kv", daemon=True)
        self._thread.start()

    @property
    def identified(self) -> bool:
        """Whether it is known what states depend on."""
        return self._fingerprint is not None

    def wakes(self, wake: Callable[[], None]) -> None:
        """``wake`` is called when there is room again."""
        self._wake = wake

    def say(self, line: str) -> None:
        """Tell the user, once."""
        if line not in self._told:
            self._told.add(line)
            self._said(f"kv cache: {line}")

    # ---- reading

    def find(self, tokens: TokenIds, n_known: int, n_most: int) -> Found | None:
        """A saved state of up to ``n_most`` tokens that begins as ``tokens`` do, where reading it is quicker than
        computing what it has beyond the ``n_known`` that are in memory."""
        n_missing = len(tokens) - n_known
        if n_missing < _N_LEAST or not self._identified(_WAIT_PART * n_missing / self._prefill_tps):
            return None
        found = self._best(tokens)
        if found is None or found.name in self._refused or found.n_tokens > n_most:
            return None
        n_won = found.n_common - n_known
        return found if n_won >= _N_LEAST and self._pays(n_won, found.state_bytes) else None

    def _best(self, tokens: TokenIds) -> Found | None:
        fingerprint = self._fingerprint
        return None if fingerprint is None else self._store.find(fingerprint, tokens, whole=self._whole)

    def _identified(self, patience_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._fingerprint is not None or self._off, patience_s)
            return self._fingerprint is not None and not self._off

    def _pays(self, n_tokens: int, n_bytes: int) -> bool:
        return n_tokens / self._prefill_tps > _OPEN_S + n_bytes / self._read_bps

    @contextlib.contextmanager
    def loading(self, found: Found) -> Iterator[memoryview | None]:
        """The state of what was found, for the time of the block, which puts it into the engine; None where it cannot
        be had. Waits for room, but not longer than computing would take."""
        patience_s = found.n_common / self._prefill_tps
        with self._changed:
            room = self._changed.wait_for(lambda: self._bytes_fit(found.state_bytes), patience_s)
        if not room:
            yield None
            return
        begin = time.perf_counter()
        state = self._store.load(found)
        yield state
        if state is not None:
            bps = len(state) / max(time.perf_counter() - begin, 1e-6)
            self._read_bps += _LEARN * (bps - self._read_bps)

    def refuse(self, found: Found, error: Exception) -> None:
        """A state that the engine does not take is not read again by this process."""
        self._refused.add(found.name)
        self.say(f"{found.name} was not used: {error}")

    # ---- writing

    def has_room(self, tokens: TokenIds, *, wait: bool = False) -> bool:
        """Whether a copy of such a state could be kept now; with ``wait``, soon: waiting takes no longer than computing
        the tokens again would. All such waits and `close` together take no longer than the shelf was told."""
        n_bytes = int(len(tokens) * self._token_bytes)
        patience_s = min(self._time_left(), len(tokens) / self._prefill_tps) if wait else 0.0
        if len(tokens) < _N_LEAST:
            return False

        def ready() -> bool:
            return self._off or (self._fingerprint is not None and self._bytes_fit(n_bytes))

        with self._changed:
            return self._changed.wait_for(ready, patience_s) and not self._off

    def _time_left(self) -> float:
        self._deadline = self._deadline or time.monotonic() + self._close_s
        return max(0.0, self._deadline - time.monotonic())

    def wants(self, tokens: TokenIds) -> bool:
        """Whether a state of these tokens is worth saving."""
        if len(tokens) < _N_LEAST or self._fingerprint is None:
            return False
        found = self._best(tokens)
        n_saved = found.n_common if found is not None else 0
        with self._changed:
            pending = list(self._pending)
        for other in pending:
            n_common = common_prefix(other, tokens)
            if n_common == len(other) or not self._whole:  # one that cannot be cut helps as a whole or not at all
                n_saved = max(n_saved, n_common)
        n_new = len(tokens) - n_saved
        return n_new >= _N_LEAST and self._pays(n_new, int(len(tokens) * self._token_bytes))

    def _bytes_fit(self, n_bytes: int) -> bool:
        """A state that is larger than all the room has it to itself."""
        return not self._bytes or self._bytes + n_bytes <= self._room_bytes

    def keep(self, tokens: TokenIds, state: memoryview) -> None:
        """Write the state of ``tokens``, soon, in another thread; neither must be changed any more."""
        with self._changed:
            if self._off or self._closing:
                return
            self._token_bytes = len(state) / len(tokens)
            self._queue.append((tokens, state))
            self._pending.append(tokens)
            self._bytes += len(state)
            self._changed.notify_all()

    def saw_prefill(self, n_tokens: int, seconds: float) -> None:
        """A pass read so many tokens of prompts in this time."""
        if n_tokens >= _N_MEASURED and seconds > 0:
            tps = n_tokens / seconds
            known = self._prefill_tps
            self._prefill_tps = tps if known == _PREFILL_TPS else known + _LEARN * (tps - known)

    def close(self) -> None:
        """Finish writing, or give up after a while and say so. Nothing is found or kept afterwards."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._time_left())
        if self._thread.is_alive():
            with self._changed:
                n_left = len(self._pending)
                self._off = True
                self._queue.clear()
            if n_left:
                self.say(f"writing did not end in {self._close_s:g} s: {n_left} saved states were given up")

    # ---- the thread

    def _run(self) -> None:
        try:
            fingerprint = self._identity if isinstance(self._identity, Fingerprint) else self._identity()
        except OSError as error:
            self._turn_off(f"nothing is saved or found: {error}")
            return
        except Exception as error:  # a bug here must not look like a cache that never hits
            self._turn_off(f"nothing is saved or found: {type(error).__name__}: {error}")
            raise
        with self._changed:
            self._fingerprint = fingerprint
            self._changed.notify_all()
        self._store.find(fingerprint, np.empty(0, np.int32))  # reads the heads of all there are, ahead
        self._wake()
        self._store.tidy()
        while (item := self._next()) is not None:
            tokens, state = item
            del item
            try:
                self._store.save(fingerprint, tokens, state, keep_prefixes=self._whole)
            finally:
                n_bytes = len(state)
                del state
                with self._changed:
                    self._bytes -= n_bytes
                    self._pending = [pending for pending in self._pending if pending is not tokens]
                    self._changed.notify_all()
            self._wake()

    def _turn_off(self, line: str) -> None:
        with self._changed:
            self._off = True
            self._changed.notify_all()
        self.say(line)

    def _next(self) -> tuple[TokenIds, memoryview] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue and not self._off else None
