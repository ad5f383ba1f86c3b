"""Rows over an OpenAI-compatible server: ours, vLLM, llama.cpp's, or one that is paid for.

A server that is overloaded or away is waited for, and no row suffers by it; one that stays away ends the run, which
goes on when it is back. What is wrong with one row (a bad request, half an answer, garbage) is that row's."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from edgeinfer import __version__
from edgeinfer.batch.compute import Outcome
from edgeinfer.batch.gate import Gate
from edgeinfer.batch.posting import Call, NoAnswer, Poster, Reply
from edgeinfer.batch.rows import Row
from edgeinfer.batch.wire import answer_of, body_of, error_of, parsed
from edgeinfer.errors import BackendUnavailable, EdgeInferError, EngineError, UsageError

__all__ = ["EndpointComputer"]

TIMEOUT_S = 600.0
PATIENCE_S = 300.0
_MOST_PAUSE_S = 3600.0
_TELL_S = 60.0
_OVERLOADED = (408, 425, 429, 503)
_OF_THE_ROW = (400, 413, 414, 415, 422)


@dataclass(slots=True)
class _Asked:
    row: Row
    path: str
    body: dict[str, Any] = field(repr=False)
    submitted: float = field(default_factory=time.monotonic)


class EndpointComputer:
    """Asks the server at ``url`` for up to ``concurrency`` rows at once. ``model``: its name there; None: the only one
    that the server has. ``key``: what the server knows us by. ``timeout_s``: seconds that one answer may take.
    ``patience_s``: seconds that a server may be overloaded or away. Close it, or use it as a context.

    ``said`` may be set: it hears of trouble that is waited out. ``notices`` are for the user.
    Rows are asked without streaming: times to the first token are not known, and tokens are counted as answers come.

    Raises `UsageError` for what cannot be, `BackendUnavailable` where a model's name is needed and the server does not
    tell."""

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key: str | None = None,
        concurrency: int = 16,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        if not 1 <= concurrency <= 1024:
            raise UsageError(f"concurrency is {concurrency}, but must be between 1 and 1024")
        if not 0 < timeout_s <= 86400:
            raise UsageError(f"the timeout is {timeout_s}, but must be above 0 and at most a day, in seconds")
        self._poster = Poster(url, key)
        self._timeout_s = timeout_s
        self._gate = Gate(patience_s)
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[Row, Outcome] | EdgeInferError] = queue.SimpleQueue()
        self._calls: set[Call] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._remarks: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._told_at = -_TELL_S
        self.said: Callable[[str], None] = lambda _line: None
        self.n_places = concurrency
        self.n_generated = 0
        self.notices = self._first_notices()
        self.model = model or self._only_model()

    def _first_notices(self) -> tuple[str, ...]:
        shown = f"the key goes to {self._poster.url} unencrypted; use https:// where others share the network"
        return (shown,) if self._poster.shows_key else ()

    def facts(self) -> dict[str, Any]:
        where = {"name": self.model, "endpoint": self._poster.url}
        return {"model": where, "versions": {"edgeinfer": __version__}}

    def _only_model(self) -> str:
        """Raises `BackendUnavailable`, and `UsageError` where there is a choice."""
        try:
            reply = self._poster.send("/models", None, Call(min(self._timeout_s, 60.0)))
        except NoAnswer as error:
            raise BackendUnavailable(f"cannot ask which models there are: {error}") from None
        self._check_key(reply)
        if reply.status != 200:
            raise BackendUnavailable(f"{self._poster.url}/models: {self._told(reply)}; name the model with -m")
        try:
            entries = parsed(reply.body).get("data")
        except EngineError as error:
            raise BackendUnavailable(f"{self._poster.url}/models: {self._poster.hidden(str(error))}") from None
        found = [entry.get("id") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        names = [name for name in found if isinstance(name, str)]
        if len(names) != 1:
            listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            raise UsageError(f"{self._poster.url} has {len(names)} models ({listed}): name one with -m")
        return names[0]

    # ---- in and out

    def submit(self, row: Row) -> None:
        path, body = body_of(row, self.model)
        if len(self._threads) < self.n_places:
            thread = threading.Thread(target=self._work, name="edgeinfer-endpoint", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._asked.put(_Asked(row, path, body))

    def next(self, timeout_s: float) -> tuple[Row, Outcome] | None:
        self._end_late_ones()
        while not self._remarks.empty():
            self.said(self._remarks.get())
        try:
            ended = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(ended, EdgeInferError):
            raise ended
        if not isinstance(ended[1], EdgeInferError):
            self.n_generated += ended[1].stats.n_generated
        return ended

    def cancel(self) -> None:
        self._closed = True
        self._gate.close()
        with self._lock:
            for call in self._calls:
                call.give_up()
        for _ in self._threads:
            self._asked.put(None)

    def close(self) -> None:
        """Give up what is under way and wait for it to be over. Closing twice is harmless."""
        self.cancel()
        for thread in self._threads:
            thread.join(timeout=5.0)  # one may hang in a name server, which nobody can interrupt

    def __enter__(self) -> EndpointComputer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _end_late_ones(self) -> None:
        """A server may send a byte now and then for ever: no wait for one ever times out by itself."""
        now = time.monotonic()
        with self._lock:
            late = [call for call in self._calls if now > call.deadline]
        for call in late:
            call.give_up()

    # ---- in threads

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None and not self._closed:
            try:
                outcome = self._outcome(asked)
            except EdgeInferError as error:
                self._ended.put(error)
            except Exception as error:  # a thread that dies in silence would be waited for without an end
                self._ended.put((asked.row, EngineError(f"{type(error).__name__}: {error}")))
            else:
                if outcome is not None:
                    self._ended.put((asked.row, outcome))

    def _outcome(self, asked: _Asked) -> Outcome | None:
        """What came of a row, however often the server puts us off; None once nobody wants to know. Raises what ends
        the run."""
        while self._gate.wait():
            sent = time.monotonic()
            try:
                reply = self._sent(asked)
            except NoAnswer as error:
                if self._closed:
                    return None
                self._pause(sent, str(error), None)
                if error.connected:  # it took the request, which may be what breaks it
                    return error
                continue
            if reply.status in _OVERLOADED:
                self._pause(sent, self._told(reply), reply.retry_after_s)
                continue
            outcome = self._judged(asked, reply, sent)
            if isinstance(outcome, EngineError):
                self._pause(sent, str(outcome), reply.retry_after_s)
            else:
                self._gate.good()
            return outcome
        return None

    def _sent(self, asked: _Asked) -> Reply:
        call = Call(self._timeout_s)
        with self._lock:
            if self._closed:
                call.give_up()
            self._calls.add(call)
        try:
            return self._poster.send(asked.path, asked.body, call)
        finally:
            with self._lock:
                self._calls.discard(call)

    def _pause(self, sent: float, why: str, asked_s: float | None) -> None:
        """Raises what ends the run: a server that is in trouble for too long, or asks for too long a pause."""
        if asked_s is not None and asked_s > _MOST_PAUSE_S:
            raise EngineError(f"{why}; the server asks to be let alone for {asked_s:.0f} s: go on then")
        try:
            first, pause_s = self._gate.trouble(sent, asked_s)
        except TimeoutError:
            raise EngineError(f"no answer for too long, the last time: {why}") from None
        if first and time.monotonic() - self._told_at >= _TELL_S:
            self._told_at = time.monotonic()
            self._remarks.put(f"{why}; asking again in {pause_s:.0f} s")

    def _judged(self, asked: _Asked, reply: Reply, sent: float) -> Outcome:
        """Raises what is wrong with all rows: the key, the address, the model's name."""
        if reply.status == 200:
            now = time.monotonic()
            times = {"queue_s": sent - asked.submitted, "total_s": now - asked.submitted}
            try:
                return answer_of(asked.row, parsed(reply.body), times)
            except EngineError as error:
                return EngineError(self._poster.hidden(str(error)))
        told = self._told(reply)
        if reply.status in _OF_THE_ROW:
            return UsageError(told)
        if reply.status >= 500:
            return EngineError(told)
        self._check_key(reply)
        raise UsageError(f"{self._poster.url}{asked.path}: {told}; is the address right, and the model {self.model!r}?")

    def _check_key(self, reply: Reply) -> None:
        if reply.status in (401, 403):
            raise UsageError(f"{self._told(reply)}; give the key with --api-key-file, or in EDGEINFER_API_KEY")

    def _told(self, reply: Reply) -> str:
        return self._poster.hidden(f"the server says {reply.status}: {error_of(reply.body)}")
