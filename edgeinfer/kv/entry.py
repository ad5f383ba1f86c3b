"""The file of one saved state. Owns its layout and every check of it; knows nothing of folders, caps and locks.

    offset  bytes
         0      8  magic
         8      4  version of this layout, 1
        12      4  n_tokens
        16      8  state_bytes
        24      8  when it was made, seconds since 1970
        32     32  fingerprint
        64     32  SHA-256 of the state
        96    128  label, UTF-8, filled up with zeros
       224     32  SHA-256 of the 224 bytes above and the tokens
       256         tokens, int32 each
                   state

All numbers are little-endian. SHA-256 because it is the quickest digest where a processor has instructions for it
(measured, GB/s on a Zen 4: SHA-256 1.8, BLAKE2b 0.65, CRC-32 4.2), and because a checksum of 32 bits is too short for
"never". The state is hashed piece by piece while the piece is in the cache.

What is read was perhaps written by somebody else: sizes are held against the file's before anything is allocated, the
head is checked before it is believed and the state before it is handed out. Every fault is a `FormatError`.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np

from edgeinfer.errors import FormatError

__all__ = [
    "MAX_TOKENS",
    "Head",
    "Stream",
    "file_bytes",
    "file_name",
    "group",
    "is_name",
    "open_entry",
    "read_head",
    "read_state",
    "write",
]

Stream: TypeAlias = io.FileIO
"""An open entry: unbuffered, so that a state goes straight to its place."""

_MAGIC = b"\x93EIKV\r\n\x1a"
_VERSION = 1
_FIXED = struct.Struct("<8sIIQQ32s32s128s32s")
_SEALED = _FIXED.size - 32
_LABEL_BYTES = 128
_PIECE_BYTES = 1 << 20
MAX_TOKENS = 1 << 24
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}\.kv")


@dataclass(frozen=True, slots=True)
class Head:
    """What an entry says of itself. ``fingerprint``: a digest, 32 bytes. ``tokens``: int32, little-endian, as bytes.
    ``created``: seconds since 1970."""

    fingerprint: bytes
    tokens: bytes
    state_bytes: int
    state_sha256: bytes
    created: int
    label: str = ""

    @property
    def n_tokens(self) -> int:
        return len(self.tokens) // 4

    @property
    def state_offset(self) -> int:
        return _FIXED.size + len(self.tokens)


def group(fingerprint: bytes) -> str:
    """What the names of all entries of a fingerprint begin with."""
    return fingerprint.hex()[:16] + "-"


def file_name(fingerprint: bytes, tokens: bytes) -> str:
    """An entry's name follows from its content: the same state is saved once, and a file under another's name is
    found out."""
    return group(fingerprint) + hashlib.sha256(fingerprint + tokens).hexdigest()[:32] + ".kv"


def is_name(name: str) -> bool:
    """Whether an entry could have this name."""
    return _NAME.fullmatch(name) is not None


def file_bytes(tokens: bytes, state_bytes: int) -> int:
    """Size of the whole file."""
    return _FIXED.size + len(tokens) + state_bytes


# ---- writing


def write(
    stream: IO[bytes], fingerprint: bytes, tokens: bytes, state: memoryview, *, created: int, label: str = ""
) -> None:
    """Fill an empty seekable file. The head comes last: until it is there, nothing passes for an entry."""
    digest = hashlib.sha256()
    stream.seek(_FIXED.size)
    stream.write(tokens)
    for start in range(0, len(state), _PIECE_BYTES):
        piece = state[start : start + _PIECE_BYTES]
        digest.update(piece)
        stream.write(piece)
    stream.seek(0)
    stream.write(_pack(Head(fingerprint, tokens, len(state), digest.digest(), created, label)))


def _pack(head: Head) -> bytes:
    label = head.label.encode("utf-8", "replace")[:_LABEL_BYTES].decode("utf-8", "ignore").encode()
    fixed = _FIXED.pack(
        _MAGIC,
        _VERSION,
        head.n_tokens,
        head.state_bytes,
        head.created,
        head.fingerprint,
        head.state_sha256,
        label,
        b"",
    )
    return fixed[:_SEALED] + hashlib.sha256(fixed[:_SEALED] + head.tokens).digest()


# ---- reading


def open_entry(path: Path) -> Stream:
    """The file, unbuffered, for `read_head` and `read_state`. Links are not followed and nothing is waited for.
    Raises `FormatError` for what is no regular file, `OSError` for one that cannot be opened."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise FormatError("not a regular file")
    harmless = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    stream = io.FileIO(os.open(path, os.O_RDONLY | harmless))
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):  # exchanged since
        stream.close()
        raise FormatError("not a regular file")
    return stream


def read_head(stream: Stream, name: str) -> Head:
    """The head of an entry that lies in a file of this name. Raises `FormatError` for anything but a whole head of the
    right content, in a file of the right size."""
    size = os.fstat(stream.fileno()).st_size
    if size < _FIXED.size:
        raise FormatError(f"{size} bytes are too few for a saved state")
    fixed = bytes(_read(stream, _FIXED.size))
    magic, version, n_tokens, state_bytes, created, fingerprint, state_sha256, label, seal = _FIXED.unpack(fixed)
    if magic != _MAGIC:
        raise FormatError("not a saved state of edgeinfer")
    if version != _VERSION:
        raise FormatError(f"layout {version} where this edgeinfer knows {_VERSION}")
    if not 0 < n_tokens <= MAX_TOKENS or size != _FIXED.size + 4 * n_tokens + state_bytes:
        raise FormatError(f"{size} bytes do not fit {n_tokens} tokens and a state of {state_bytes} bytes")
    tokens = bytes(_read(stream, 4 * n_tokens))
    if hashlib.sha256(fixed[:_SEALED] + tokens).digest() != seal:
        raise FormatError("the checksum of its head is wrong")
    if file_name(fingerprint, tokens) != name:
        raise FormatError("it is another state than its name says")
    text = label.rstrip(b"\0").decode("utf-8", "replace")
    return Head(fingerprint, tokens, state_bytes, state_sha256, created, text)


def read_state(stream: Stream, head: Head) -> memoryview:
    """The state, in memory of its own, checked; the stream is where `read_head` left it. Raises `FormatError` for one
    that is not what was saved, `MemoryError` where there is no room for it."""
    return _read(stream, head.state_bytes, head.state_sha256)


def _read(stream: Stream, n_bytes: int, sha256: bytes | None = None) -> memoryview:
    """Exactly so many bytes: read, not mapped, for a map of a file that somebody shortens kills the process."""
    view = np.empty(n_bytes, np.uint8).data
    digest, done = hashlib.sha256(), 0
    while done < n_bytes:
        n_read = stream.readinto(view[done : done + _PIECE_BYTES])
        if not n_read:
            raise FormatError("the file ends too early")
        if sha256 is not None:
            digest.update(view[done : done + n_read])
        done += n_read
    if sha256 is not None and digest.digest() != sha256:
        raise FormatError("the checksum of the state is wrong")
    return view
