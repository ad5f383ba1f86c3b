"""Writing the image of a load in the background, whole or not at all.

A thread of low priority copies the model's buffers to a file, and has the disk take each piece before the next, so
that neither memory fills with what is not written yet nor the last step takes long. The buffers live only as long as
the model: `Writer.finish` comes before it is freed, waits a little for a copy that is nearly done, and ends one that is
not. Then a file says so, and the next processes begin only when they have lived for a while: a slow disk is not worn by
runs that end too soon. A process that dies leaves a temporary file, which the next writer removes; a disk that is full,
or anything else that fails, leaves nothing, and the model runs on.

Knows nothing of how an image is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgeinfer import files
from edgeinfer.kernels.recording import Recording
from edgeinfer.packed import image, store
from edgeinfer.packed.identity import identify

__all__ = ["Writer"]

GRACE_S = 3.0
"""How long a process that wants to end waits for a copy."""
PATIENCE_S = 60.0
"""How old a process must be before it tries what did not end in time before."""

_STEP_BYTES = 16 << 20
_POLL_S = 0.2
_NICENESS = 10


class _Stopped(Exception):
    """The model is about to be freed."""


class Writer:
    """Writes the image of ``load``, the model at ``model``, under ``key``, beginning at once.

    The load's buffers must stay as they are until `finish` has returned. Nothing is said of failures: they cost the
    next load the time that packing takes.
    """

    def __init__(self, load: Recording, model: Path, key: str) -> None:
        self._load, self._model, self._key = load, model, key
        self._slow = store.image_path(key).with_suffix(".slow")
        self._stop, self._copying = threading.Event(), threading.Event()
        # A daemon: a program that forgets to close its model must still be able to end.
        self._thread = threading.Thread(target=self._run, name="edgeinfer-packed", daemon=True)
        self._thread.start()

    def finish(self, grace_s: float = GRACE_S) -> None:
        """Return when the buffers are not needed any more: when all is written, or soon after ``grace_s``."""
        if self._copying.is_set():
            self._thread.join(grace_s)
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        _step_back()
        with contextlib.suppress(OSError, _Stopped):
            if self._slow.exists():
                self._wait(PATIENCE_S)
            self._write_when_alone()
            self._slow.unlink(missing_ok=True)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _Stopped

    def _write_when_alone(self) -> None:
        while True:
            with store.writing() as alone:
                if alone:
                    return self._write()
            self._wait(_POLL_S)

    def _write(self) -> None:
        target = store.image_path(self._key)
        if target.exists():  # somebody else's work, while we waited
            return
        planned = image.plan(self._key, [b.n_bytes for b in self._load.buffers], self._load.weights, time.time())
        if not store.make_room(planned.file_bytes):
            return
        self._copying.set()
        with files.open_atomic(target) as stream:
            waiting = 0
            for data in self._pieces(stream, planned):
                _write(stream, data)
                waiting += len(data)
                if waiting >= _STEP_BYTES:
                    _sync(stream)
                    waiting = 0
            _sync(stream)
            found = identify(self._model)
            if (
                found is None or found.key != self._key
            ):  # the model changed while it was read: who knows what was packed
                raise _Stopped
            stream.truncate(planned.file_bytes)
            stream.seek(0)
            _write(stream, planned.head)
            stream.flush()
            os.utime(stream.fileno(), ns=(time.time_ns(), planned.mark_ns))

    def _pieces(self, stream: IO[bytes], planned: image.Plan) -> Iterator[memoryview]:
        """The weights, some at a time, with the stream where each belongs."""
        for weight in self._load.weights:
            buffer = self._load.buffers[weight.buffer]
            memory = (ctypes.c_char * weight.n_bytes).from_address(buffer.address + weight.offset)
            for begin in range(0, weight.n_bytes, _STEP_BYTES):
                if self._stop.is_set():
                    self._slow.touch(mode=0o600)
                    raise _Stopped
                stream.seek(planned.offsets[weight.buffer] + weight.offset + begin)
                yield memoryview(memory)[begin : begin + _STEP_BYTES]


def _write(stream: IO[bytes], data: bytes | memoryview) -> None:
    """All writing to an image passes here."""
    stream.write(data)


def _sync(stream: IO[bytes]) -> None:
    stream.flush()
    getattr(os, "fdatasync", os.fsync)(stream.fileno())


def _step_back() -> None:
    """Let whoever computes go first. On Linux a thread has a priority of its own."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
