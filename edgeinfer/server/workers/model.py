"""The server's end of one model: asks it, hears what comes back, and tells whether it still moves.

Lives on the server's event loop; nothing here blocks it. Knows no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.core import Answer, Token
from edgeinfer.errors import EdgeInferError, EngineError, RequestCancelled
from edgeinfer.server.workers import life, wire
from edgeinfer.server.workers.transport import Received, Transport
from edgeinfer.server.workers.wire import Frame

__all__ = ["Facts", "Model", "Reply"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model says of itself once it is open. ``planned_bytes``: what it was reckoned to take. ``info``: fields of
    `ModelInfo`, where it has them. ``token_s``: seconds that reading one token of a prompt has taken here."""

    n_ctx: int
    n_parallel: int
    n_vocab: int
    chats: bool
    takes_tools: bool
    planned_bytes: int
    notices: tuple[str, ...]
    info: Mapping[str, Any] | None
    pid: int
    token_s: float


@dataclass(slots=True)
class _Waiting:
    """One thing asked: frames that came back for it."""

    frames: asyncio.Queue[Frame] = field(default_factory=asyncio.Queue)


class Reply:
    """An answer on its way: ``async for token in reply``, then ``reply.answer``. Leaving it as a context manager
    cancels what is left."""

    def __init__(self, model: Model, number: int, waiting: _Waiting) -> None:
        self._model, self._number, self._waiting = model, number, waiting
        self._tokens: list[Token] = []
        self._answer: Answer | None = None
        self._ended = False

    @property
    def answer(self) -> Answer:
        """The finished answer; there once iteration has ended."""
        if self._answer is None:
            raise EngineError("the answer has not come yet")
        return self._answer

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        while not self._ended:
            frame = await self._waiting.frames.get()
            if "token" in frame:
                token, pieces = wire.token_from(frame["token"])
                self._model.pieces.update(pieces)
                self._tokens.append(token)
                return token
            if "answer" in frame:
                self._answer = wire.answer_from(frame["answer"], tuple(self._tokens))
                self._ended = True
            elif "error" in frame:
                self._ended = True
                raise wire.error_from(frame["error"])
        raise StopAsyncIteration

    async def accepted(self) -> None:
        """Wait until the engine has the request. Raises what refused it."""
        frame = await self._waiting.frames.get()
        if "error" in frame:
            self._ended = True
            raise wire.error_from(frame["error"])
        if "accepted" not in frame:  # it was quicker than the word of it
            self._waiting.frames = _put_back(frame, self._waiting.frames)

    async def __aenter__(self) -> Reply:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._model.leave(self._number, cancel=not self._ended)


def _put_back(frame: Frame, frames: asyncio.Queue[Frame]) -> asyncio.Queue[Frame]:
    first: asyncio.Queue[Frame] = asyncio.Queue()
    first.put_nowait(frame)
    while not frames.empty():
        first.put_nowait(frames.get_nowait())
    return first


class Model:
    """An open model, or one that is being opened.

    ``connect`` starts a transport. ``ended`` is called on the event loop when the model has gone without being asked
    to. ``said`` hears what it does while it opens. ``pieces`` are the bytes of tokens that log-probabilities have
    named."""

    def __init__(
        self,
        name: str,
        connect: Callable[[Received], Transport],
        *,
        ended: Callable[[], None] = lambda: None,
        said: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.name = name
        self.pieces: dict[int, bytes] = {}
        self.load = (0, 0)
        self._ended, self._said = ended, said
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._facts: asyncio.Future[Facts] = self._loop.create_future()
        self._facts.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._gone = self._closing = False
        self._n_steps = self._n_steps_at_first = self._n_computing = -1
        self._moved = self._seen = time.monotonic()
        self._life: life.Signs = ()
        self._transport = connect(self._received)

    async def ready(self) -> Facts:
        """Wait until it is open. Raises why it cannot be."""
        return await asyncio.shield(self._facts)

    @property
    def facts(self) -> Facts:
        """What it is; only once it is `ready`."""
        return self._facts.result()

    @property
    def alive(self) -> bool:
        return not self._gone

    @property
    def pid(self) -> int | None:
        return self._transport.pid

    @property
    def n_asked(self) -> int:
        """How many wait for something from it."""
        return len(self._waiting)

    def stalled_s(self) -> float:
        """Seconds for which somebody has waited and no step has ended; 0 while it moves. They pass more slowly during a
        step that must take longer than a second."""
        if not self._waiting or not self._facts.done() or self._gone:
            return 0.0
        expected_s = max(1.0, self._n_computing * self.facts.token_s)
        return (time.monotonic() - self._moved) / expected_s

    @property
    def has_stepped(self) -> bool:
        """Whether any step has ended."""
        return self._n_steps > self._n_steps_at_first >= 0

    def forgive(self, late_s: float) -> None:
        """We ourselves did not run for so long: the model may not have either."""
        self._moved += late_s
        self._seen += late_s

    def silent_s(self) -> float:
        """Seconds without a sign of life while it is being opened: a word, processor time, bytes read or memory taken.
        0 once it is open."""
        if self._facts.done() or self._gone:
            return 0.0
        signs = life.signs(self.pid, self._transport.thread)
        if signs != self._life:
            self._life, self._seen = signs, time.monotonic()
        return time.monotonic() - self._seen

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token that log-probabilities have named."""
        return self.pieces.get(token_id, b"")

    # ---- asking

    async def answer(self, prompt: Any, options: Mapping[str, Any], *, suffix: str | None = None) -> Reply:
        """Begin to answer; returns when the engine has the request. Raises what refuses it."""
        frame = {"do": "answer", "prompt": prompt, "options": wire.options_to(options), "suffix": suffix}
        number, waiting = self._ask(frame)
        reply = Reply(self, number, waiting)
        try:
            await reply.accepted()
        except BaseException:
            self.leave(number, cancel=True)
            raise
        return reply

    async def embed(self, text: str | Sequence[int]) -> tuple[npt.NDArray[np.float32], int]:
        """(the text's embedding of length 1, its number of tokens). Cancelling the task cancels it."""
        n_tokens = 0
        async for frame in self._frames({"do": "embed", "text": text}):
            n_tokens = frame.get("accepted", {}).get("n_tokens", n_tokens)
            if "answer" in frame:
                return wire.floats_from(frame["answer"]["embedding"]), n_tokens
        raise EngineError("the embedding never came")

    async def tokenize(self, text: Any, *, add_special: bool = False, pieces: bool = False, tools: Any = None) -> Frame:
        """``ids`` of a text or of messages, and where asked for the ``pieces`` of text that they stand for, as
        Latin-1."""
        return await self._once(
            {"do": "tokenize", "text": text, "add_special": add_special, "pieces": pieces, "tools": tools}
        )

    async def detokenize(self, ids: Sequence[int]) -> str:
        found: str = (await self._once({"do": "detokenize", "ids": list(ids)}))["text"]
        return found

    async def _once(self, frame: Frame) -> Frame:
        async for got in self._frames(frame):
            if "answer" in got:
                answer: Frame = got["answer"]
                return answer
        raise EngineError("the answer never came")

    async def _frames(self, frame: Frame) -> AsyncIterator[Frame]:
        """What comes back, up to the answer."""
        number, waiting = self._ask(frame)
        ended = False
        try:
            while not ended:
                got = await waiting.frames.get()
                ended = "answer" in got or "error" in got
                if "error" in got:
                    raise wire.error_from(got["error"])
                yield got
        finally:
            self.leave(number, cancel=not ended)

    def _ask(self, frame: Frame) -> tuple[int, _Waiting]:
        if self._gone or self._closing:
            raise RequestCancelled(f"the model {self.name} has been closed")
        number = next(self._numbers)
        if not self._waiting:
            self._moved = time.monotonic()
        waiting = self._waiting[number] = _Waiting()
        self._transport.send({"id": number, **frame})
        return number, waiting

    def leave(self, number: int, *, cancel: bool) -> None:
        """Nobody waits for this any more."""
        if self._waiting.pop(number, None) is not None and cancel:
            self._transport.send({"id": number, "do": "cancel"})

    # ---- hearing

    def _received(self, frame: Frame | None) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._hear, frame)

    def _hear(self, frame: Frame | None) -> None:
        if frame is None:
            self._lost(EngineError(f"the process of {self.name} has ended"))
        elif frame["id"] >= 0:
            waiting = self._waiting.get(frame["id"])
            if waiting is not None:
                waiting.frames.put_nowait(frame)
        elif "pulse" in frame:
            self._felt(*frame["pulse"])
        elif "ready" in frame:
            facts = {**frame["ready"], "notices": tuple(frame["ready"]["notices"])}
            if not self._facts.done():
                self._facts.set_result(Facts(**facts))
        elif "failed" in frame:
            self._gone = True
            if not self._facts.done():
                self._facts.set_exception(wire.error_from(frame["failed"]))
        else:
            self._seen = time.monotonic()
            self._said(frame["said"])

    def _felt(self, n_steps: int, n_computing: int, n_running: int, n_waiting: int) -> None:
        now = time.monotonic()
        if n_steps != self._n_steps or not n_running + n_waiting + n_computing:
            if self._n_steps_at_first < 0:
                self._n_steps_at_first = n_steps
            self._n_steps, self._moved = n_steps, now
        self._n_computing = n_computing
        self.load = (n_running, n_waiting)

    def _lost(self, error: EdgeInferError) -> None:
        if self._gone:
            return
        self._gone = True
        if not self._facts.done():
            self._facts.set_exception(error)
        for waiting in self._waiting.values():
            waiting.frames.put_nowait({"error": wire.error_to(error)})
        if not self._closing:
            self._ended()

    # ---- ending

    async def close(self) -> None:
        """Free it in good order, saving what is worth it."""
        self._closing = True
        await asyncio.to_thread(self._transport.close)
        self._lost(RequestCancelled(f"the model {self.name} was closed"))

    def kill(self, why: EdgeInferError) -> None:
        """Be rid of it at once; whoever waits is told why."""
        self._closing = True
        self._lost(why)
        self._transport.kill()
