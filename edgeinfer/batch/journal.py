"""A file of lines that only grows: each line whole or not there, and on disk within a second.

A line is handed to the system as it comes, so that a killed process loses none; what a power failure could take is
synced in groups. Whatever goes wrong in a write, the file ends with a whole line again before anybody hears of it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from edgeinfer.errors import EdgeInferError
from edgeinfer.files import sync_dir

__all__ = ["Journal", "WriteError"]

SYNC_S = 0.5
"""So long a line waits for others to be synced together."""


class WriteError(EdgeInferError):
    """A file of the job could not be written: the disk is full, or gone. What was written before is whole."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot write {path}: {error.strerror or error}")


class Journal:
    """Opens (or begins) the file, which must end with a whole line. ``durable``: lines are synced. Not thread-safe.
    Raises `WriteError` from all methods that write."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self._durable = durable
        self._waits_since: float | None = None
        try:
            begins = not path.exists()
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._handle = os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
            self._n_bytes = self._n_synced = os.fstat(self._handle).st_size
            if begins and durable:
                sync_dir(path.parent)
        except OSError as error:
            raise WriteError(path, error) from error

    def append(self, line: bytes) -> None:
        """Write a line, which ends with its newline."""
        try:
            n_written = 0
            while n_written < len(line):
                n_written += os.write(self._handle, line[n_written:])
        except BaseException as error:
            self._cut(self._n_bytes)
            if isinstance(error, OSError):
                raise WriteError(self.path, error) from error
            raise
        self._n_bytes += len(line)
        if self._durable and self._waits_since is None:
            self._waits_since = time.monotonic()

    @property
    def due_s(self) -> float | None:
        """Seconds until `sync` should be called; None while there is nothing to sync."""
        if self._waits_since is None:
            return None
        return max(0.0, self._waits_since + SYNC_S - time.monotonic())

    def sync(self) -> None:
        """Bring what was written to disk. After a failure the file is as it was synced last: what the system has
        forgotten about the rest, nobody knows."""
        if self._waits_since is None:
            return
        try:
            os.fsync(self._handle)
        except OSError as error:
            self._waits_since = None
            self._cut(self._n_synced)
            raise WriteError(self.path, error) from error
        self._waits_since, self._n_synced = None, self._n_bytes

    def _cut(self, n_bytes: int) -> None:
        with contextlib.suppress(OSError):  # then the next run cuts it
            os.ftruncate(self._handle, n_bytes)
        self._n_bytes = n_bytes

    def close(self) -> None:
        """Sync and close. Closing twice is harmless."""
        if self._handle < 0:
            return
        try:
            self.sync()
        finally:
            handle, self._handle = self._handle, -1
            with contextlib.suppress(OSError):
                os.close(handle)
