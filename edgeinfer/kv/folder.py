"""The folder of saved states: whose it is, who may change it now, what lies in it, and what has to go. Knows names,
sizes and times of use of entries, not what is in them.

    lock                     held for moments by whoever adds or removes
    GROUP-CONTENT.kv         an entry (see `entry`), never changed
    .GROUP-CONTENT.kv.….tmp  an entry being written: locked by its writer, from the start as long as it will be

The time of last use is the file's modification time, which any process can set without a lock: least recently used
goes first. What is being written counts in full from its first moment, so that writers side by side keep to the cap
together.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgeinfer import files
from edgeinfer.kv import entry

__all__ = ["File", "Folder"]

_DAY_S = 86400


@dataclass(frozen=True, slots=True)
class File:
    """An entry as the folder shows it. ``used``: seconds since 1970."""

    name: str
    n_bytes: int
    used: float


class Folder:
    """The folder at ``path``, which need not exist, with ``cap_bytes`` of entries at most and ``keep_free_bytes`` of
    its disk left to others. ``say`` is told what keeps it from being used; a line may come again."""

    def __init__(
        self, path: Path, cap_bytes: int, keep_free_bytes: int, patience_s: float, say: Callable[[str], None]
    ) -> None:
        self.path = path
        self._cap_bytes = cap_bytes
        self._keep_free_bytes = keep_free_bytes
        self._patience_s = patience_s
        self._say = say
        self._said_no_room = False

    def prepare(self) -> None:
        """Make the folder, and make it private. Raises `OSError`, also where it is not ours to use."""
        files.private_dir(self.path.parent)
        files.private_dir(self.path)
        fault = self._fault()
        if fault:
            raise PermissionError(f"{self.path} is {fault}")
        if os.name == "posix" and stat.S_IMODE(self.path.stat().st_mode) != 0o700:
            self.path.chmod(0o700)

    def trusted(self) -> bool:
        """Whether the folder is there and ours: not somebody else's, not a link to elsewhere. Raises `OSError` where
        it cannot be told."""
        try:
            fault = self._fault()
        except FileNotFoundError:
            return False
        if fault:
            self._say(f"{self.path} is not used: it is {fault}")
        return not fault

    def _fault(self) -> str | None:
        info = os.lstat(self.path)
        ours = os.name != "posix" or info.st_uid == os.geteuid()
        return None if ours and stat.S_ISDIR(info.st_mode) else "a link, or not a folder of this user"

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold it alone, for moments. Raises `TimeoutError` where somebody else does for long."""
        return files.lock(self.path / "lock", patience_s=self._patience_s)

    def names(self, group: str) -> set[str]:
        """The entries whose names begin so. Raises `OSError`."""
        return {item.name for item in self._items() if item.name.startswith(group) and entry.is_name(item.name)}

    def scan(self, *, sweep: bool = False) -> tuple[list[File], int]:
        """The entries, and the bytes set aside by writers. ``sweep``, under the lock only: remove what dead writers
        left. Raises `OSError`."""
        entries, writing_bytes = [], 0
        for item in self._items():
            with contextlib.suppress(OSError):  # gone since
                info = item.stat(follow_symlinks=False)
                if entry.is_name(item.name):
                    entries.append(File(item.name, info.st_size, info.st_mtime))
                elif _is_temporary(item.name) and not (sweep and _swept(item.path)):
                    writing_bytes += info.st_size
        return entries, writing_bytes

    def _items(self) -> Iterator[os.DirEntry[str]]:
        if self.trusted():
            with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as items:
                yield from items

    @contextlib.contextmanager
    def adding(self, name: str, n_bytes: int) -> Iterator[IO[bytes]]:
        """A file of ``n_bytes`` that becomes the entry when the block ends well. Enter and leave it under the lock."""
        with files.open_atomic(self.path / name) as stream:
            files.try_lock(stream.fileno())  # says that its writer lives; nobody else knows of the file yet
            stream.truncate(n_bytes)
            yield stream

    def make_room(self, n_bytes: int, spare: Collection[str] = ()) -> bool:
        """Remove the least recently used entries until ``n_bytes`` more fit under the cap; those in ``spare`` only if
        there is no other way. False, and nothing is removed, where it cannot be. Under the lock only."""
        entries, writing_bytes = self.scan(sweep=True)
        total = sum(file.n_bytes for file in entries) + writing_bytes
        # Writers' files are as long as they will be, but do not yet take as much of the disk.
        free = shutil.disk_usage(self.path).free - writing_bytes - self._keep_free_bytes
        limit = min(self._cap_bytes, total + free)
        if n_bytes and n_bytes + writing_bytes > limit:
            self._say_no_room(n_bytes, limit)
            return False
        now = time.time()
        for file in sorted(entries, key=lambda file: (file.name in spare, _last_use(file, now))):
            if total + n_bytes <= limit:
                break
            if self.remove(file.name):
                total -= file.n_bytes
        return total + n_bytes <= limit

    def _say_no_room(self, n_bytes: int, limit: int) -> None:
        if self._said_no_room:  # the figures differ each time, the news does not
            return
        self._said_no_room = True
        why = f"the cache may hold {self._cap_bytes / 1e6:.0f} MB"
        if n_bytes <= self._cap_bytes:
            keep = self._keep_free_bytes / 1e6
            why = f"there is room for {max(0, limit) / 1e6:.0f} MB beside other writers, with {keep:.0f} MB left free"
        self._say(f"a state of {n_bytes / 1e6:.0f} MB was not kept: {why}")

    def remove(self, name: str) -> bool:
        """False where it is gone, or cannot be removed: Windows keeps what somebody reads."""
        try:
            os.unlink(self.path / name)
        except OSError:
            return False
        return True

    def touch(self, name: str) -> bool:
        """Its last use is now. False where it is gone."""
        now = time.time_ns()
        follow = os.utime not in os.supports_follow_symlinks
        try:
            os.utime(self.path / name, ns=(now, now), follow_symlinks=follow)
        except OSError:
            return False
        return True


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp") and entry.is_name(name[1:].rsplit(".", 2)[0])


def _swept(path: str) -> bool:
    """Remove a file whose writer is dead: nobody holds its lock. False where somebody does, or it cannot be told."""
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            dead = files.try_lock(handle)
        finally:
            os.close(handle)
        if dead:
            os.unlink(path)
    except OSError:
        return False
    return dead


def _last_use(file: File, now: float) -> float:
    """A use in the future is a clock that was wrong; believed, it would keep the entry for ever."""
    return file.used if file.used < now + _DAY_S else 0.0
