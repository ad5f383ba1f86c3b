"""An answer on its way: sampled ids become text on the engine's thread, and reach whoever iterates, waits or awaits.

Knows nothing of engines; it is given a function that cancels.
"""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType

from edgeinfer.core import Answer, FinishReason, GenerationStats, Token
from edgeinfer.errors import EdgeInferError
from edgeinfer.process import Birthplace
from edgeinfer.sampling import Sampled
from edgeinfer.text import StopMatcher, StreamDecoder, Vocabulary

__all__ = ["AsyncStream", "Delivery", "Event", "Stream"]

Event = Token | Answer | EdgeInferError
"""What becomes of a request: tokens, then an answer or an error."""
_TAIL = -1  # the id of a Token that only carries text which was held back until the end


class Delivery:
    """The scheduler's `Sink` of one answer: decodes, looks for stop strings, and hands on `Token`s, then one `Answer`
    or error.

    ``deliver`` is called on the engine's thread. ``finished`` is called once, before the last event is delivered.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop: tuple[str, ...],
        deliver: Callable[[Event], None],
        finished: Callable[[Answer | None], None],
        n_dropped: int = 0,
    ) -> None:
        self._decoder = StreamDecoder(vocabulary)
        self._matcher = StopMatcher(stop)
        self._deliver = deliver
        self._finished = finished
        self._n_dropped = n_dropped
        self._tokens: list[Token] = []
        self._stopped = False

    def token(self, sampled: Sampled) -> bool:
        text, self._stopped = self._matcher.feed(self._decoder.feed(sampled.token_id))
        self._add(Token(sampled.token_id, text, sampled.logprob, sampled.top))
        return self._stopped

    def done(self, reason: FinishReason, stats: GenerationStats) -> None:
        if not self._stopped:
            text, stopped = self._matcher.feed(self._decoder.flush())
            tail = text if stopped else text + self._matcher.flush()
            if tail:
                self._add(Token(_TAIL, tail))
        answer = Answer(
            text="".join(token.text for token in self._tokens),
            token_ids=tuple(token.id for token in self._tokens if token.id != _TAIL),
            finish_reason=reason,
            stats=stats,
            tokens=tuple(self._tokens),
            n_dropped=self._n_dropped,
            stop=self._matcher.matched,
        )
        self._finished(answer)
        self._deliver(answer)

    def failed(self, error: EdgeInferError) -> None:
        self._finished(None)
        self._deliver(error)

    def _add(self, token: Token) -> None:
        self._tokens.append(token)
        self._deliver(token)


class _Outcome:
    """What has arrived so far, the same for both kinds of stream."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.answer: Answer | None = None
        self.error: EdgeInferError | None = None

    @property
    def ended(self) -> bool:
        return self.answer is not None or self.error is not None

    def take(self, event: Event) -> Token | None:
        """The token, or None at the end. Raises the error that ended the answer."""
        if isinstance(event, Token):
            self.parts.append(event.text)
            return event
        if isinstance(event, Answer):
            self.answer = event
            return None
        self.error = event
        raise event


class Stream:
    """An answer as it comes: iterate for `Token`s, then read ``answer``. Leaving it as a context manager, or dropping
    it, cancels what is left. ``notices`` says what was done to make the prompt fit. Not for use from two threads at
    once, except `cancel`."""

    def __init__(self, notices: tuple[str, ...] = ()) -> None:
        self.notices = notices
        self._birthplace = Birthplace()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._outcome = _Outcome()
        self._cancel: Callable[[], None] = lambda: None

    @property
    def sink(self) -> Callable[[Event], None]:
        return self._events.put

    def bind(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        token = None if self._outcome.ended else self._outcome.take(self._next_event())
        if token is None:
            raise StopIteration
        return token

    def _next_event(self) -> Event:
        self._birthplace.check()
        if os.name != "nt":
            return self._events.get()
        while True:  # a blocking get does not hear Ctrl-C on Windows
            try:
                return self._events.get(timeout=0.1)
            except queue.Empty:
                continue

    @property
    def text(self) -> str:
        """What has been received so far."""
        return "".join(self._outcome.parts)

    @property
    def answer(self) -> Answer:
        """The finished answer; waits for it. Raises what ended it, if that was an error."""
        for _ in self:
            pass
        if self._outcome.answer is None:
            raise self._outcome.error or EdgeInferError("the answer never came")
        return self._outcome.answer

    def cancel(self) -> None:
        """Stop generating. The answer ends at once with what it has and finish reason ``cancelled``."""
        self._cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel()

    def __del__(self) -> None:
        if not self._outcome.ended:
            self._cancel()


class AsyncStream:
    """`Stream` for asyncio: ``async for token in stream``, then ``await stream.answer()``. Cancelling the task that
    waits on it cancels the request."""

    def __init__(self, notices: tuple[str, ...] = ()) -> None:
        self.notices = notices
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._outcome = _Outcome()
        self._cancel: Callable[[], None] = lambda: None

    def sink(self, event: Event) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the event loop is closed: nobody listens any more
            self._cancel()

    def bind(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        if self._outcome.ended:
            raise StopAsyncIteration
        try:
            token = self._outcome.take(await self._events.get())
        except asyncio.CancelledError:
            self._cancel()
            raise
        if token is None:
            raise StopAsyncIteration
        return token

    @property
    def text(self) -> str:
        """What has been received so far."""
        return "".join(self._outcome.parts)

    async def answer(self) -> Answer:
        """The finished answer. Raises what ended it, if that was an error."""
        async for _ in self:
            pass
        if self._outcome.answer is None:
            raise self._outcome.error or EdgeInferError("the answer never came")
        return self._outcome.answer

    def cancel(self) -> None:
        """Stop generating."""
        self._cancel()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel()

    def __del__(self) -> None:
        if not self._outcome.ended:
            self._cancel()
