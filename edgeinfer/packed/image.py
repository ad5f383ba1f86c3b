"""An image of packed weights in a file, and what is believed of one that lies there.

    magic          8 bytes    EIPACKED
    table_bytes    u32        little-endian, like all numbers
    mark           u64        when it was written, in seconds, an even number
    checksum       32 bytes   SHA-256 of the 20 bytes above and of the table
    table          JSON       {"key", "file_bytes", "buffers": [[bytes, offset in the file]], "weights": [[name in
                              hexadecimal, type, buffer, shape, offset in the buffer, bytes]]}
    buffers        at multiples of 64 KiB, as a load had them in memory; what is not of a weight of ours is a hole

**What is trusted.** The head is written last, and the file gets its name when all of it is on disk, so a file that has
the name was once whole. `read` believes it when magic, checksum, key, length and bounds are right, and the file's time
of change is still the mark, which the writer sets: whatever writes to the file afterwards, or cuts it, moves that time.
So the payload needs no checksum, which would cost at every load what packing costs: it is trusted as much as the
model's file is, whose weights nobody checks at a load either. What neither notices is a disk that returns other bytes
than it was given. All else is `Unfit`, whatever the bytes are; the plug-in compares name, type, shape and place of each
weight with the model's once more.

Knows nothing of folders, keys' making, and memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeinfer.kernels.recording import Image, Weight

__all__ = ["Plan", "Unfit", "plan", "read"]

_MAGIC = b"EIPACKED"
_HEAD = struct.Struct("<8sIQ")
_DIGEST_BYTES = 32
_PREFIX_BYTES = _HEAD.size + _DIGEST_BYTES
_ALIGNMENT = 1 << 16  # the largest page of any system that we know
_MOST_TABLE_BYTES = 16 << 20


class Unfit(Exception):
    """The file is not an image that may be used; the message says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An image to be written: its head, where each buffer begins in the file, and how long the file is."""

    head: bytes
    mark_ns: int
    offsets: tuple[int, ...]
    file_bytes: int


def plan(key: str, buffers: Sequence[int], weights: Sequence[Weight], now_s: float) -> Plan:
    """Where everything goes. ``buffers``: bytes of each. The mark is a time that every file system can keep."""
    mark = int(now_s) // 2 * 2
    shaped = [(w.name.hex(), w.type_id, w.buffer, w.shape, w.offset, w.n_bytes) for w in weights]
    room = len(json.dumps(shaped)) + 64 * len(buffers) + 256
    at, offsets = _aligned(_PREFIX_BYTES + room), []
    for n_bytes in buffers:
        offsets.append(at)
        at = _aligned(at + n_bytes)
    places = list(zip(buffers, offsets, strict=True))
    table = json.dumps({"key": key, "file_bytes": at, "buffers": places, "weights": shaped}).encode()
    fixed = _HEAD.pack(_MAGIC, len(table), mark)
    head = fixed + hashlib.sha256(fixed + table).digest() + table
    return Plan(head, mark * 10**9, tuple(offsets), at)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def read(descriptor: int, key: str) -> Image:
    """The image in an open file. Raises `Unfit` unless it is whole, unchanged, and of this key; `OSError`."""
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        raise Unfit("not a file")
    prefix = os.pread(descriptor, _PREFIX_BYTES, 0)
    if len(prefix) < _PREFIX_BYTES or prefix[: len(_MAGIC)] != _MAGIC:
        raise Unfit("not an image of packed weights")
    _, table_bytes, mark = _HEAD.unpack_from(prefix)
    if table_bytes > _MOST_TABLE_BYTES:
        raise Unfit("a damaged head")
    table = os.pread(descriptor, table_bytes, _PREFIX_BYTES)
    if hashlib.sha256(prefix[: _HEAD.size] + table).digest() != prefix[_HEAD.size :]:
        raise Unfit("a damaged head")
    if about.st_mtime_ns != mark * 10**9:
        raise Unfit("changed since it was written")
    try:
        return _checked(json.loads(table), descriptor, key, about.st_size)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unfit("another version of the table") from error


def _checked(table: Any, descriptor: int, key: str, size: int) -> Image:
    """The image of a table whose checksum is right. Anybody can compute a checksum, so nothing is outside the file."""
    if table["key"] != key:
        raise Unfit("made from other weights")
    if table["file_bytes"] != size:
        raise Unfit(f"{size} bytes long, not {table['file_bytes']}")
    buffers = [(_number(n_bytes), _number(offset)) for n_bytes, offset in table["buffers"]]
    if any(offset % _ALIGNMENT or offset + n_bytes > size for n_bytes, offset in buffers):
        raise Unfit("a table that points outside the file")
    weights = [_weight(*entry) for entry in table["weights"]]
    if any(w.buffer >= len(buffers) or w.offset + w.n_bytes > buffers[w.buffer][0] for w in weights):
        raise Unfit("a table that points outside the file")
    return Image(descriptor, buffers, weights)


def _weight(name: str, type_id: int, buffer: int, shape: list[int], offset: int, n_bytes: int) -> Weight:
    a, b, c = shape
    raw = bytes.fromhex(name)
    if len(raw) > 63:  # ggml's names end with a zero
        raise ValueError("a name that is too long")
    return Weight(
        raw, _number(type_id), _number(buffer), (_number(a), _number(b), _number(c)), _number(offset), _number(n_bytes)
    )


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r} is no size")
    return value
