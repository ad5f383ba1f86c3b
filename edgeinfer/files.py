"""Files that several processes may touch: written whole (temporary file, fsync, rename, fsync of the folder), and
locked. The project's only writer of files that matter, and its only lock."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from edgeinfer.errors import UsageError

__all__ = ["atomic_write", "is_same", "lock", "open_atomic", "parse_bytes", "private_dir", "safe_name", "try_lock"]

_POLL_S = (0.001, 0.1)


def private_dir(path: Path) -> Path:
    """Create the folder (0700, whatever the umask) where it is missing, and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def is_same(one: str | Path, other: str | Path) -> bool:
    """Whether both names are one file, through links too, or would be if it were there."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return os.path.abspath(one) == os.path.abspath(other)


@contextlib.contextmanager
def open_atomic(
    path: Path, *, mode: int = 0o600, partial: bool = False, check: Callable[[Path], object] = lambda _written: None
) -> Iterator[IO[bytes]]:
    """A binary file that becomes ``path`` when the block ends well, and leaves no trace when it does not.

    The old file, if any, stays until the new one is complete and on disk. ``check`` reads what has been written before
    it gets its name; what it raises is a failure like any other. ``partial``: meanwhile it is ``path`` with
    ``.partial``, for files that take long; a process that dies leaves it to the next, which begins anew. Raises
    `UsageError` where another process is writing it.
    """
    private_dir(path.parent)
    handle, name = _claimed(path) if partial else tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            check(Path(name))
            with contextlib.suppress(OSError):  # file systems without modes
                os.chmod(name, mode)
            if os.name == "posix":  # while the claim is held
                os.replace(name, path)
        if os.name != "posix":
            os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say whose
            error.filename = str(path)
        raise
    sync_dir(path.parent)


def _claimed(path: Path) -> tuple[int, str]:
    """The empty file ``path`` with ``.partial``, open and locked."""
    name = f"{path}.partial"
    safe = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(name, os.O_RDWR | os.O_CREAT | safe, 0o600)
    try:
        # Whoever had it may have given it its name, or removed it, between our opening and our locking.
        ours = try_lock(handle) and os.path.exists(name) and os.path.samestat(os.fstat(handle), os.stat(name))
        if not ours:
            raise UsageError(f"another process is writing {path}; wait for it, or choose another name")
        os.ftruncate(handle, 0)
    except BaseException:
        os.close(handle)
        raise
    return handle, name


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


def _nobody() -> None:
    pass


@contextlib.contextmanager
def lock(path: Path, waiting: Callable[[], None] = _nobody, *, patience_s: float | None = None) -> Iterator[None]:
    """Hold the file ``path`` alone, among processes and among threads. ``waiting`` is called once if someone else has
    it. The system frees it when we die. Raises `TimeoutError` after ``patience_s`` (None: never)."""
    private_dir(path.parent)
    safe = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | safe, 0o600)
    try:
        _wait_for(handle, path, waiting, patience_s)
        try:
            yield
        finally:
            _unlock(handle)
    finally:
        os.close(handle)


def _wait_for(handle: int, path: Path, waiting: Callable[[], None], patience_s: float | None) -> None:
    if try_lock(handle):
        return
    waiting()
    start, pause = time.monotonic(), _POLL_S[0]
    while not try_lock(handle):
        if patience_s is not None and time.monotonic() - start > patience_s:
            raise TimeoutError(errno.ETIMEDOUT, f"another process has held it for {patience_s:g} s", str(path))
        time.sleep(pause)
        pause = min(2 * pause, _POLL_S[1])


def try_lock(handle: int) -> bool:
    """Lock an open file if nobody else has; closing it frees it. Locks through two opens of one file exclude each
    other in one process too. Raises `OSError` where the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _unlock(handle: int) -> None:
    """A child forked meanwhile has our handle: closing ours alone would leave it the lock."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_UN)


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
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        raise UsageError(f"size {text!r} is not understood: write it like 2G, 512M or 1073741824")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
