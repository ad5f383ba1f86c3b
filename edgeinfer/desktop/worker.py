"""The thread that does what may wait, and the answers that it brings. What the window gets of it are Qt's signals,
which arrive on the window's own thread, and text that it takes when it likes.

Everything here but `Worker._run` and what is given to `Worker.do` is called by the window, and returns at once.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal

from edgeinfer.errors import EdgeInferError, RequestCancelled

if TYPE_CHECKING:
    from edgeinfer.conversation import Conversation
    from edgeinfer.core import Answer
    from edgeinfer.llm import LLM, Stream

__all__ = ["Asking", "Loading", "Worker", "described"]

_TELL_S = 0.05


def described(error: BaseException) -> str:
    """An error in one line, for a person."""
    if isinstance(error, EdgeInferError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"


class Worker(QObject):
    """One thread; what it is given is done in that order. An error of a job goes to ``failed``, in one line, unless
    the job takes care of it."""

    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: a program whose window is gone must be able to end, whatever a job waits for.
        self._thread = threading.Thread(target=self._run, name="edgeinfer-desktop", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def finish(self, patience_s: float) -> bool:
        """Do what was given so far and end; false where that takes longer than ``patience_s``. This one waits."""
        self._jobs.put(None)
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                with contextlib.suppress(RuntimeError):  # the window is gone, and its signals with it
                    self.failed.emit(described(error))


class Asking(QObject):
    """One question and its answer on the way. ``ended`` brings the `Answer`, or the error that came instead."""

    ended = Signal(object)

    def __init__(self, llm: LLM, conversation: Conversation, question: str) -> None:
        super().__init__()
        self.question = question
        self.notices: tuple[str, ...] = ()
        self.stopping = False
        self._llm, self._conversation = llm, conversation
        self._lock = threading.Lock()
        self._parts: list[str] = []
        self._stream: Stream | None = None

    def run(self) -> None:
        """On the worker's thread: ask, and gather what comes."""
        outcome: Answer | EdgeInferError
        try:
            outcome = self._gather()
        except EdgeInferError as error:
            outcome = error
        except Exception as bug:
            outcome = EdgeInferError(described(bug))
        with contextlib.suppress(RuntimeError):
            self.ended.emit(outcome)

    def _gather(self) -> Answer:
        with self._conversation.ask(self._llm, self.question) as stream:
            with self._lock:
                self._stream, self.notices = stream, stream.notices
                if self.stopping:
                    stream.cancel()
            for token in stream:
                if token.text:
                    with self._lock:
                        self._parts.append(token.text)
            return stream.answer

    def take(self) -> str:
        """The text that came since it was taken last."""
        with self._lock:
            parts, self._parts = self._parts, []
        return "".join(parts)

    def stop(self) -> None:
        """End the answer with what it has, now or as soon as it begins."""
        with self._lock:
            self.stopping = True
            if self._stream is not None:
                self._stream.cancel()


class Loading(QObject):
    """A model on its way from its source to memory: what goes on (``said``), how far a download is (``at``, from 0 to
    1), and the open `LLM` or the error (``ended``). Is a `Progress` of the catalogue."""

    said = Signal(str)
    at = Signal(float)
    ended = Signal(object)

    def __init__(self, open_model: Callable[..., LLM], name: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.name = name
        self._open, self._arguments = open_model, arguments
        self._stopped = False
        self._told = 0.0

    def run(self) -> None:
        """On the worker's thread."""
        outcome: LLM | EdgeInferError
        try:
            outcome = self._open(self.name, **self._arguments, progress=self, said=self.note)
        except EdgeInferError as error:
            outcome = error
        except Exception as bug:
            outcome = EdgeInferError(described(bug))
        with contextlib.suppress(RuntimeError):
            self.ended.emit(outcome)

    def stop(self) -> None:
        """End a download; what has arrived stays for the next try. A load from disk is not stopped."""
        self._stopped = True

    def update(self, done_bytes: int, total_bytes: int) -> None:
        if self._stopped:
            raise RequestCancelled(f"{self.name}: stopped; what arrived is kept for the next try")
        now = time.monotonic()
        if now - self._told >= _TELL_S:
            self._told = now
            self.at.emit(done_bytes / max(total_bytes, 1))

    def note(self, text: str) -> None:
        self.said.emit(text)
