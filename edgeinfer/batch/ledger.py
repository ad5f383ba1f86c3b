"""Which rows are done: four bytes a row, read from the very lines that were written. There is no other record of it, so
none can disagree with the results."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgeinfer.batch.journal import WriteError
from edgeinfer.batch.rows import Raw, parse_name
from edgeinfer.errors import FormatError, UsageError

__all__ = ["Ledger", "recover"]

_FAILED = 2


class Ledger:
    """Rows with a result, and rows that failed."""

    def __init__(self) -> None:
        # Of each row 30 bits of its key, whether it failed, and a bit that is always set; 0 for one that is not done.
        self._marks = array("I")
        self._ids = array("q")
        self.n_done = self.n_failed = 0

    def add(self, index: int, key: str, *, failed: bool = False) -> bool:
        """A row is done; false where it was already."""
        if index >= len(self._marks):
            self._marks.frombytes(bytes(self._marks.itemsize * (index + 1 - len(self._marks))))
        if self._marks[index]:
            return False
        self._marks[index] = _mark(key) | (_FAILED if failed else 0)
        self.n_done += not failed
        self.n_failed += failed
        return True

    def has(self, raw: Raw) -> bool:
        """Whether the row is done. Raises `UsageError` where another row was done in its place."""
        mark = self._marks[raw.index] if raw.index < len(self._marks) else 0
        if mark and mark & ~_FAILED != _mark(raw.key):
            raise UsageError(
                f"the input has changed: row {raw.index} (line {raw.line}) is not the one that was answered before; "
                "restore it, start again with --restart, or choose another output"
            )
        return bool(mark)

    def n_within(self, chosen: Sequence[int] | None) -> tuple[int, int]:
        """(done, failed) of the rows of these indexes, in order; None: of all."""
        marks = np.frombuffer(self._marks, np.uint32) if self._marks else np.empty(0, np.uint32)
        if isinstance(chosen, range):
            marks = marks[: len(chosen)]
        elif chosen is not None:
            indexes = np.asarray(chosen, np.int64)
            marks = marks[indexes[indexes < len(marks)]]
        n_failed = int(np.count_nonzero(marks & _FAILED))
        return int(np.count_nonzero(marks)) - n_failed, n_failed

    def saw_id(self, custom_id: str | None) -> None:
        if custom_id is not None:
            self._ids.append(hash(custom_id))

    @property
    def n_repeated(self) -> int:
        """How many rows have a custom_id that another one has, too, not counting one of each."""
        if not self._ids:
            return 0
        ids = np.frombuffer(self._ids, np.int64)
        ids.sort()  # in place: their order means nothing
        return int(np.count_nonzero(ids[1:] == ids[:-1]))


def _mark(key: str) -> int:
    return int(key[:8], 16) & ~3 | 1


def recover(path: Path, ledger: Ledger, *, failed: bool, said: Callable[[str], None]) -> None:
    """Read the lines of an earlier run into the ledger, and cut off what a death has left half written.

    Raises `FormatError` for a file that we cannot have written so, which is left as it is, and `WriteError` where the
    cut fails."""
    try:
        n_good, n_bytes = _read(path, ledger, failed)
    except FileNotFoundError:
        return
    if n_good == n_bytes:
        return
    said(f"{path.name} ended within a line: its last {n_bytes - n_good} bytes are cut off, and their row is done again")
    try:
        with path.open("r+b") as stream:
            stream.truncate(n_good)
            os.fsync(stream.fileno())
    except OSError as error:
        raise WriteError(path, error) from error


def _read(path: Path, ledger: Ledger, failed: bool) -> tuple[int, int]:
    """(bytes of whole lines, bytes)"""
    n_good = n_bytes = 0
    bad: int | None = None
    torn = True  # what a death leaves: one line without an end, or, after a power failure, zeros
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            n_bytes += len(line)
            found = _named(line)
            if found is None:
                bad = bad or number
                torn = torn and (b"\0" in line or not line.endswith(b"\n"))
                continue
            if bad is not None:
                break
            index, key, custom_id = found
            if not ledger.add(index, key, failed=failed):
                raise FormatError(
                    f"line {number} of {path} is about row {index} again, which is done; remove one of them"
                )
            ledger.saw_id(custom_id)
            n_good = n_bytes
        else:
            found = None
    if bad is not None and (found is not None or not torn):
        raise FormatError(f"line {bad} of {path} is not one of this job; mend it or choose another output")
    return n_good, n_bytes


def _named(line: bytes) -> tuple[int, str, str | None] | None:
    """(index, key, custom_id) of a whole line; None for one that is torn or not ours."""
    if not line.endswith(b"\n"):
        return None
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    name = parse_name(document.get("id")) if isinstance(document, dict) else None
    return (*name, document.get("custom_id")) if name else None
