"""Which image belongs to which weights: the name of an image is made of everything that its bytes depend on.

A weight's bytes are known by the file they come from: its inode, size, time of change and time of status change, each
part of a split model for itself, and samples of what is in it. That is as safe as a hash of all of it: a hash would be
remembered by just these times, because taking it costs more than packing does (a second for a gigabyte), so it would
add nothing but that copies of a file shared an image. Nobody can set the time of status change (POSIX), so whatever
writes to a file makes it another; the samples are for file systems that are careless with numbers and times. Of the
hash on a catalogue's card no use is made: it says what a file was when it was pulled, not what it is.

To that come the packed layout itself (what a fixed pattern packs to, so that nobody has to remember to count versions
up), the version of the library, and the instruction set. Knows nothing of where images lie.
"""

from __future__ import annotations

import functools
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from edgeinfer import gguf, kernels
from edgeinfer.kernels import library, recording

__all__ = ["Identity", "identify"]

RACY_NS = 20_000_000
"""Clocks of file systems tick every 10 ms or so: a file that was changed within the last tick may change again without
a change of its times."""

_REBUILT = 1
"""Counts up when `edgeinfer.onnx.blocks` makes other blocks of the same operands."""

_N_SAMPLES, _SAMPLE_BYTES, _HEAD_BYTES = 16, 4096, 1 << 16


@dataclass(frozen=True, slots=True)
class Identity:
    """``key``: 32 hexadecimal digits. ``settled``: the file is not so new that a change could go unnoticed."""

    key: str
    settled: bool


def identify(path: Path) -> Identity | None:
    """What the packed weights of this model are called on this machine; None where a file cannot be read. ``path``: a
    GGUF file, or the folder of an ONNX package, of which every file counts. Reads some 100 KiB of each. Raises
    `BackendUnavailable` without the library."""
    digest = hashlib.sha256(repr((library.version(), kernels.best_isa(), _layout(), _REBUILT)).encode())
    newest = 0
    try:
        for part in _parts(path):
            with part.open("rb") as stream:
                about = part.stat()
                stamp = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
                newest = max(newest, about.st_mtime_ns, about.st_ctime_ns)
                digest.update(repr(stamp).encode())
                digest.update(stream.read(_HEAD_BYTES))
                for i in range(1, _N_SAMPLES + 1):
                    stream.seek(max(0, about.st_size * i // _N_SAMPLES - _SAMPLE_BYTES))
                    digest.update(stream.read(_SAMPLE_BYTES))
    except OSError:
        return None
    return Identity(digest.hexdigest()[:32], time.time_ns() - newest > RACY_NS)


def _parts(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else gguf.named_parts(path)


@functools.cache
def _layout() -> str:
    return hashlib.sha256(recording.layout()).hexdigest()
