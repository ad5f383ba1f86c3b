"""How frames reach a model: in a process of its own, or in this one. Knows nothing of what frames say."""

from __future__ import annotations

import contextlib
import importlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from edgeinfer.server.workers import wire
from edgeinfer.server.workers.wire import Frame
from edgeinfer.server.workers.worker import Worker

__all__ = ["ChildProcess", "Received", "SameProcess", "Transport"]

Received = Callable[[Frame | None], None]
"""Called, from a thread of the transport, with each frame that arrives, and with None when no more can come."""

_CLOSE_S = 15.0
_CHILD = "import sys; sys.path[:] = sys.argv[3:]; from edgeinfer.server.workers.worker import main; sys.exit(main())"


class Transport(Protocol):
    """A way to a model. It begins to open it when it is made."""

    @property
    def pid(self) -> int | None:
        """The process that the model has to itself, if it has one."""
        ...

    @property
    def thread(self) -> int | None:
        """The native id of the thread that opens the model, where it has no process to itself."""
        ...

    def send(self, frame: Frame) -> None:
        """Queue a frame. Does not block; lost where nobody is there any more."""
        ...

    def close(self) -> None:
        """Free the model in good order. Blocks."""
        ...

    def kill(self) -> None:
        """Be rid of the model at once, whatever it does. Does not block."""
        ...


class ChildProcess:
    """A model in a Python process of its own, which this one can end whatever its engine is doing."""

    thread = None

    def __init__(self, opener: str, arguments: Mapping[str, Any], received: Received) -> None:
        self._received = received
        self._outgoing: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        # Not -m: it would put the current folder first on the path, and import whatever lies there.
        command = [sys.executable, "-c", _CHILD, opener, json.dumps(dict(arguments)), *filter(None, sys.path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for work in (self._read, self._write):
            threading.Thread(target=work, name="edgeinfer-model", daemon=True).start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def send(self, frame: Frame) -> None:
        self._outgoing.put(frame)

    def close(self) -> None:
        self._outgoing.put(None)
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()

    def _read(self) -> None:
        stream = self._process.stdout
        with contextlib.suppress(OSError, ValueError):
            while stream is not None and (frame := wire.read_frame(stream)) is not None:
                self._received(frame)
        self._outgoing.put(None)
        if stream is not None:
            stream.close()
        self._process.wait()
        self._received(None)

    def _write(self) -> None:
        stream = self._process.stdin
        with contextlib.suppress(OSError, ValueError):
            while stream is not None and (frame := self._outgoing.get()) is not None:
                wire.write_frame(stream, frame)
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.close()


class SameProcess:
    """A model in this process: for tests, and where there is no Python to start another with (a frozen program). An
    engine that hangs cannot be ended here: it is left behind, with its memory."""

    pid = None

    def __init__(self, opener: str, arguments: Mapping[str, Any], received: Received) -> None:
        self._opener, self._arguments, self._received = opener, arguments, received
        self._worker: Worker | None = None
        self._ended = threading.Event()
        self._killed = False
        self._thread = threading.Thread(target=self._run, name="edgeinfer-model", daemon=True)
        self._thread.start()

    @property
    def thread(self) -> int | None:
        return self._thread.native_id

    def send(self, frame: Frame) -> None:
        if self._worker is not None and not self._killed:
            self._worker.take(frame)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def kill(self) -> None:
        self._killed = True
        self._ended.set()
        self._received(None)

    def _run(self) -> None:
        module, _, attribute = self._opener.partition(":")
        try:
            opened = getattr(importlib.import_module(module), attribute)(
                self._arguments, lambda text: self._pass_on({"id": -1, "said": text})
            )
        except Exception as error:
            self._pass_on({"id": -1, "failed": wire.error_to(error)})
            return
        self._worker = Worker(opened, self._pass_on)
        self._pass_on({"id": -1, "ready": self._worker.facts()})
        self._ended.wait()
        self._worker.close()
        self._pass_on(None)

    def _pass_on(self, frame: Frame | None) -> None:
        if not self._killed:
            self._received(frame)
