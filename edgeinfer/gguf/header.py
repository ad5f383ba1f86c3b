"""Reading forward through a GGUF header without trusting it. Owns the bytes and the limits; knows nothing of models.

Every count from the file is held against the bytes that are left before anything is looped over or allocated, so a
small file costs little however large the numbers in it are. All arithmetic is on Python integers, which do not wrap.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import IO, NoReturn

from edgeinfer.errors import FormatError, ModelNotFound
from edgeinfer.gguf.formats import ValueType

__all__ = [
    "MAX_ARRAY",
    "MAX_HEADER_BYTES",
    "MAX_KEYS",
    "MAX_STRING_BYTES",
    "MAX_TENSORS",
    "HeaderCursor",
    "open_regular",
    "shown",
]

MAX_STRING_BYTES = 16 << 20
MAX_ARRAY = 64 << 20
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 20
MAX_HEADER_BYTES = 256 << 20
"""The largest vocabularies of today need about 20 MiB."""

_FIRST_READ = 1 << 16
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def shown(text: str) -> str:
    """Text from a file as it may stand in a message: quoted, control characters escaped, at most 80 characters."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading, unbuffered. Raises `ModelNotFound` where there is none, `FormatError` for
    folders, pipes and devices (which are never waited for)."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        if path.is_dir():  # Windows cannot open a folder at all and would call it a lack of permission
            raise FormatError(f"{path} is a folder, not a GGUF file")
        handle = os.open(path, flags)
    except FileNotFoundError as error:
        raise ModelNotFound(f"no file {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelNotFound(f"cannot open {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FormatError(f"{path} is not a regular file")
    return os.fdopen(handle, "rb", buffering=0)


class HeaderCursor:
    """A position in the header. ``data`` holds all bytes read so far and grows as the cursor moves.

    The file is read, not mapped: a file that shrinks meanwhile is then an error, not a SIGBUS.
    """

    __slots__ = ("_stream", "data", "path", "pos", "size")

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self.path = path
        self.size = os.fstat(stream.fileno()).st_size
        self.data = bytearray()
        self.pos = 0

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        raise FormatError(f"{self.path}, byte {self.pos if at is None else at}: {what}")

    def need(self, n_bytes: int, what: str) -> None:
        """Make the next ``n_bytes`` present in ``data``, or fail."""
        end = self.pos + n_bytes
        if end > self.size:
            self.fail(
                f"{what} needs {n_bytes} bytes, but {self.size - self.pos} are left; the file is truncated or damaged"
            )
        if end > len(self.data):
            self._fill(end)

    def _fill(self, end: int) -> None:
        if end > MAX_HEADER_BYTES:
            self.fail(f"the header is longer than {MAX_HEADER_BYTES >> 20} MiB")
        want = min(self.size, MAX_HEADER_BYTES, max(end, 2 * len(self.data), _FIRST_READ))
        while len(self.data) < want:
            block = self._stream.read(want - len(self.data))
            if not block:
                self.fail("the file became shorter while it was read", len(self.data))
            self.data += block

    def u32(self, what: str) -> int:
        self.need(4, what)
        (value,) = _U32.unpack_from(self.data, self.pos)
        self.pos += 4
        return int(value)

    def u64(self, what: str) -> int:
        self.need(8, what)
        (value,) = _U64.unpack_from(self.data, self.pos)
        self.pos += 8
        return int(value)

    def span(self, n_bytes: int, what: str) -> int:
        """Step over ``n_bytes`` and return where they start."""
        self.need(n_bytes, what)
        start = self.pos
        self.pos += n_bytes
        return start

    def string_span(self, what: str, limit: int = MAX_STRING_BYTES) -> int:
        """Step over a string and return where its bytes start; they end at ``pos``."""
        length = self.u64(f"the length of {what}")
        if length > limit:
            self.fail(f"{what} claims {length} bytes, more than the {limit} that are accepted", self.pos - 8)
        return self.span(length, what)

    def string(self, what: str, limit: int = MAX_STRING_BYTES) -> str:
        """A string that must be UTF-8."""
        start = self.string_span(what, limit)
        try:
            return self.data[start : self.pos].decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8", start)

    def value_type(self, what: str) -> ValueType:
        number = self.u32(f"type of {what}")
        try:
            return ValueType(number)
        except ValueError:
            self.fail(f"{what} has value type {number}, which does not exist", self.pos - 4)

    def skip_strings(self, count: int, what: str) -> None:
        """Move past ``count`` strings, looking only at their lengths. About 0.1 microseconds a string."""
        unpack, data, size, pos, have = _U64.unpack_from, self.data, self.size, self.pos, len(self.data)
        for index in range(count):
            if pos + 8 > have:
                self.pos = pos
                self.need(8, f"element {index} of {what}")
                have = len(data)
            (length,) = unpack(data, pos)
            if length > MAX_STRING_BYTES or pos + 8 + length > size:
                self.fail(f"element {index} of {what} claims {length} bytes, but {size - pos - 8} are left", pos)
            pos += 8 + length
        self.pos = pos
        self.need(0, what)
