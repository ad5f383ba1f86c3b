"""The folder of images: who may write to it, how much it may hold, and what goes first.

    packed/KEY.bin      an image; its time of access is that of the last load that used it
    packed/.KEY.*.tmp   one that is being written, or was when its writer died
    packed/KEY.slow     writing it took too long for a process that wanted to end; see `edgeinfer.packed.writer`
    packed/.lock        held by the one process that writes

Knows nothing of what is in an image.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeinfer import env, files

__all__ = ["DEFAULT_CAP_BYTES", "LEFT_FREE_BYTES", "Usage", "cap_bytes", "folder", "image_path", "usage"]

DEFAULT_CAP_BYTES = 8 << 30
LEFT_FREE_BYTES = 2 << 30
"""What writing an image must leave on the disk."""

_ON = ("1", "true", "yes", "on")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the folder holds: images, and all their bytes on the disk."""

    n_images: int
    n_bytes: int


def folder() -> Path:
    """Where images lie. Not created here."""
    return env.cache_dir() / "packed"


def cap_bytes() -> int:
    """The most that images may take together; 0 when there shall be none. Raises `UsageError` for a variable that is
    neither a size nor a word for yes or no."""
    wanted = (env.packed_cache() or "").strip().lower()
    if wanted in env.NO:
        return 0
    return DEFAULT_CAP_BYTES if wanted in ("", *_ON) else files.parse_bytes(wanted)


def image_path(key: str) -> Path:
    """Where the image of that key lies, if it does."""
    return folder() / f"{key}.bin"


def usage() -> Usage:
    """What is there now."""
    found = _images()
    return Usage(len(found), sum(n_bytes for _, n_bytes, _ in found))


def used(path: Path) -> None:
    """Note that the image was used now. Its time of change, by which it is known to be whole, stays what it was."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _images() -> list[tuple[int, int, Path]]:
    """(last used, bytes, path) of each, the one to go first first."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder().glob("*.bin"):
            with contextlib.suppress(OSError):
                about = path.stat()
                found.append((about.st_atime_ns, about.st_size, path))
    return sorted(found)


@contextlib.contextmanager
def writing() -> Iterator[bool]:
    """Be the one that writes, and clear away what writers before left that died. False where somebody else is."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(folder() / ".lock", patience_s=0))
        except TimeoutError:
            yield False
            return
        for left in folder().glob(".*.tmp"):
            with contextlib.suppress(OSError):
                left.unlink()
        yield True


def make_room(n_bytes: int) -> bool:
    """Remove the images that were not used for longest until another of ``n_bytes`` is within the cap. False, and
    nothing removed, where it can never be, or would leave too little of the disk free. Only for who is `writing`."""
    cap = cap_bytes()
    if n_bytes > cap:
        return False
    found = _images()
    surplus = sum(size for _, size, _ in found) + n_bytes - cap
    going = []
    for _, size, path in found:
        if surplus <= 0:
            break
        going.append((size, path))
        surplus -= size
    if shutil.disk_usage(folder()).free + sum(size for size, _ in going) - n_bytes < LEFT_FREE_BYTES:
        return False
    for _, path in going:
        with contextlib.suppress(OSError):
            path.unlink()
    return True
