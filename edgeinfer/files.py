"""Writing files whole: temporary file, fsync, rename, fsync of the folder. The project's only writer of files that
matter."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgeinfer.errors import UsageError

__all__ = ["atomic_write", "open_atomic", "parse_bytes", "private_dir", "safe_name"]


def private_dir(path: Path) -> Path:
    """Create the folder (0700, whatever the umask) where it is missing, and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


@contextlib.contextmanager
def open_atomic(path: Path, *, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A binary file that becomes ``path`` when the block ends well, and leaves no trace when it does not.

    The old file, if any, stays until the new one is complete and on disk.
    """
    private_dir(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(OSError):  # file systems without modes
            os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_dir(path.parent)


def sync_dir(folder: Path) -> None:
    """Make renames in the folder durable, where the platform can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, data: bytes | str, *, mode: int = 0o600) -> None:
    """Write all of ``data`` (text as UTF-8) to ``path``, or nothing."""
    with open_atomic(path, mode=mode) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def safe_name(name: str, what: str) -> str:
    """``name`` where it can be a file's name on any system and leads nowhere else. Raises `UsageError`."""
    if not _SAFE_NAME.fullmatch(name) or name.endswith("."):
        raise UsageError(
            f"{what} {name!r} is not usable: take 1 to 64 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )
    return name


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """Bytes from ``2G``, ``512M``, ``1.5GiB`` or a plain number; units are powers of 1024. Raises `UsageError`."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"size {text!r} is not understood: write it like 2G, 512M or 1073741824")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
