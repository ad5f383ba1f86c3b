"""Saved KV states on disk: one store for chat, server and batch, for any number of processes and threads at once.

Knows token ids, bytes and fingerprints; of engines, nothing. Nothing here is ever needed: whatever goes wrong is said
once, in a line, and is otherwise a miss. Entries are added (renamed into place, whole) and removed, never changed, so
that reading takes no lock.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgeinfer import env
from edgeinfer.errors import FormatError, UsageError
from edgeinfer.kv import entry
from edgeinfer.kv.fingerprint import Fingerprint
from edgeinfer.kv.folder import Folder
from edgeinfer.kv.index import Index, Known

__all__ = ["DEFAULT_CAP_BYTES", "Entry", "Found", "Stats", "Store"]

T = TypeVar("T")
TokenIds = npt.NDArray[np.int32]

DEFAULT_CAP_BYTES = 4 << 30
_KEEP_FREE_BYTES = 512 << 20
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """An entry whose first ``n_common`` tokens are those asked for, out of ``n_tokens`` that its state holds.
    ``state_bytes``: what `Store.load` would read."""

    name: str
    n_common: int
    n_tokens: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of `Store.ls`. ``fingerprint``: the first 16 hex digits. ``created`` and ``used``: seconds since 1970."""

    name: str
    label: str
    fingerprint: str
    n_tokens: int
    n_bytes: int
    created: int
    used: float


@dataclass(frozen=True, slots=True)
class Stats:
    """What lies in the folder: entries, their bytes and their different fingerprints; ``writing_bytes`` are set aside
    for entries that are being written. ``oldest_use`` and ``newest_use``: seconds since 1970, None without entries."""

    folder: str
    n_entries: int
    n_bytes: int
    n_fingerprints: int
    writing_bytes: int
    oldest_use: float | None
    newest_use: float | None


class Store:
    """The saved states in ``folder`` (default: ``kv`` in the cache folder), of ``cap_bytes`` at most; 0 is off.

    ``said`` is told, once and in one line, of every file that was thrown away and of whatever keeps states from being
    kept; it may be called from any thread and must not use the store. ``keep_free_bytes`` of the disk are left to
    others, even if the cache must shrink for that. A save waits ``patience_s`` for other processes, then gives up.
    All methods may be called from any thread. Nothing is touched, or created, before it is needed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        said: Callable[[str], None],
        cap_bytes: int = DEFAULT_CAP_BYTES,
        keep_free_bytes: int = _KEEP_FREE_BYTES,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        if cap_bytes < 0:
            raise UsageError(f"cap_bytes is {cap_bytes}, but must be 0 (off) or more")
        self.cap_bytes = cap_bytes
        self._folder = Folder(folder or env.cache_dir() / "kv", cap_bytes, keep_free_bytes, patience_s, self._say)
        self._said = said
        self._mutex = threading.RLock()  # the fields below
        self._told: set[str] = set()
        self._indexes: dict[bytes, Index] = {}
        self._refused: set[str] = set()

    @property
    def folder(self) -> Path:
        return self._folder.path

    # ---- reading

    def find(self, fingerprint: Fingerprint, tokens: TokenIds, *, whole: bool = False) -> Found | None:
        """The entry with the most leading tokens in common with ``tokens`` (int32), or None. ``whole``: only entries
        that ``tokens`` begin with entirely, for states that cannot be cut. Reads heads that are new to this process,
        no states: an early call, even without tokens, has them read ahead."""
        digest, wanted = fingerprint.digest(), _as_bytes(tokens)
        try:
            with self._mutex:
                index = self._index(digest)
                best = index.longest_whole(wanted) if whole else index.longest(wanted)
        except OSError as error:
            self._say(f"nothing was looked up: {_in_words(error)}")
            return None
        if best is None:
            return None
        known, n_common = best
        return Found(known.name, n_common, known.n_tokens, known.state_bytes)

    def load(self, found: Found) -> memoryview | None:
        """The state of an entry, checked, in memory of its own; its last use is now. None where it was removed since
        it was found, is damaged (then it is removed) or does not fit in memory: `find` again may know a second
        best."""
        # The name stands for fingerprint and tokens, and a head is held against the name: it is what was found.
        state = self._judged(found.name, entry.read_state)
        if state is not None:
            self._folder.touch(found.name)
        return state

    def ls(self) -> list[Entry]:
        """All entries, the last used first. Reads every head. Raises `OSError` where the folder cannot be read."""
        lines = []
        for file in sorted(self._folder.scan()[0], key=lambda file: -file.used):
            head = self._judged(file.name, _head_itself)
            if head is not None:
                group = head.fingerprint.hex()[:16]
                line = Entry(file.name, head.label, group, head.n_tokens, file.n_bytes, head.created, file.used)
                lines.append(line)
        return lines

    def stats(self) -> Stats:
        """What lies in the folder, by names and sizes alone. Raises as `ls`."""
        entries, writing_bytes = self._folder.scan()
        uses = [file.used for file in entries]
        return Stats(
            folder=str(self.folder),
            n_entries=len(entries),
            n_bytes=sum(file.n_bytes for file in entries),
            n_fingerprints=len({file.name.partition("-")[0] for file in entries}),
            writing_bytes=writing_bytes,
            oldest_use=min(uses, default=None),
            newest_use=max(uses, default=None),
        )

    # ---- writing

    def save(
        self, fingerprint: Fingerprint, tokens: TokenIds, state: memoryview, *, keep_prefixes: bool = False
    ) -> bool:
        """Keep the state of ``tokens`` (int32, at least one); True when it is on disk, or was.

        Takes the place of entries that ``tokens`` begin with, and is not written where a longer one begins with
        ``tokens``. With ``keep_prefixes``, for states that cannot be cut, only an entry of the very same tokens
        counts. Waits for the disk, so call it from a thread of its own; ``state`` (contiguous) must not change
        meanwhile. Raises `UsageError` for tokens of a wrong type or number, nothing else."""
        wanted, data = _as_bytes(tokens), memoryview(state).cast("B")
        if not 0 < len(wanted) <= 4 * entry.MAX_TOKENS:
            raise UsageError(f"a saved state holds 1 to {entry.MAX_TOKENS} tokens, not {len(tokens)}")
        if not self.cap_bytes:
            return False
        try:
            self._folder.prepare()
            return self._save(fingerprint, wanted, data, keep_prefixes)
        except OSError as error:
            self._say(f"a state was not kept: {_in_words(error)}")
            return False

    def _save(self, fingerprint: Fingerprint, tokens: bytes, state: memoryview, keep_prefixes: bool) -> bool:
        digest, folder = fingerprint.digest(), self._folder
        name, n_bytes = entry.file_name(digest, tokens), entry.file_bytes(tokens, len(state))
        with contextlib.ExitStack() as adding:
            with folder.locked():
                there, prefixes = self._overlaps(digest, tokens, keep_prefixes)
                if there is not None and folder.touch(there.name):
                    return True
                if not folder.make_room(n_bytes, spare={known.name for known in prefixes}):
                    return False
                stream = adding.enter_context(folder.adding(name, n_bytes))
            entry.write(stream, digest, tokens, state, created=int(time.time()), label=fingerprint.label)
            stream.flush()
            os.fsync(stream.fileno())  # the long wait, without the lock; that of the renaming finds little left to do
            with folder.locked():
                adding.close()
                for known in prefixes:
                    folder.remove(known.name)
        with self._mutex:
            self._refused.discard(name)
        return True

    def tidy(self) -> None:
        """Remove what dead writers left, and what is above the cap (of this store, which may be lower than that of
        whoever wrote). For the start of a program; `save` does it too."""
        if not self.cap_bytes:
            return
        try:
            if self._folder.trusted():
                with self._folder.locked():
                    self._folder.make_room(0)
        except OSError as error:
            self._say(f"it was not tidied: {_in_words(error)}")

    def clear(self) -> tuple[int, int]:
        """Remove all entries; returns how many and how many bytes. Raises as `ls`, and where others keep it locked."""
        if not self._folder.trusted():
            return 0, 0
        with self._folder.locked():
            entries, _ = self._folder.scan(sweep=True)
            gone = [file for file in entries if self._folder.remove(file.name)]
        return len(gone), sum(file.n_bytes for file in gone)

    # ---- what is known

    def _index(self, digest: bytes) -> Index:
        """The entries of a fingerprint as the folder is now. Under the mutex."""
        index = self._indexes.setdefault(digest, Index())
        group = entry.group(digest)
        names = self._folder.names(group) if self.cap_bytes else set()
        self._refused -= {name for name in self._refused if name.startswith(group)} - names
        names -= self._refused
        for name in set(index.names) - names:
            index.discard(name)
        for name in names - set(index.names):
            head = self._judged(name, _head_itself)
            if head is not None and head.fingerprint == digest:
                index.add(Known(name, head.tokens, head.state_bytes))
        return index

    def _overlaps(self, digest: bytes, tokens: bytes, keep_prefixes: bool) -> tuple[Known | None, list[Known]]:
        """The entry that makes a new one of ``tokens`` needless, and those that the new one makes needless."""
        with self._mutex:
            index = self._index(digest)
            there = index.extension(tokens)
            if not keep_prefixes:
                return there, index.whole(tokens)
            return (there if there and there.tokens == tokens else None), []

    def _judged(self, name: str, read: Callable[[entry.Stream, entry.Head], T]) -> T | None:
        """What ``read`` makes of an entry; None where it is gone, or not what it should be: then it is removed."""
        judged = None
        try:
            with entry.open_entry(self.folder / name) as stream:
                judged = os.fstat(stream.fileno()).st_ino
                return read(stream, entry.read_head(stream, name))
        except FileNotFoundError:
            return None
        except FormatError as wrong:
            self._throw_away(name, judged, str(wrong))
        except MemoryError:
            self._say(f"{name} was not read: it does not fit in memory")
        except OSError as error:
            self._refuse(name)
            self._say(f"{name} was not read: {_in_words(error)}")
        return None

    def _throw_away(self, name: str, judged: int | None, wrong: str) -> None:
        """Remove a bad file, unless somebody has put another into its place since it was judged."""
        removed = False
        with contextlib.suppress(OSError):
            if judged is None or os.lstat(self.folder / name).st_ino == judged:
                removed = self._folder.remove(name)
        if not removed:
            self._refuse(name)
        self._say(f"{name} was {'removed' if removed else 'left alone'}: {wrong}")

    def _refuse(self, name: str) -> None:
        """Do as if it were not there, until it is gone or written anew."""
        with self._mutex:
            self._refused.add(name)

    def _say(self, line: str) -> None:
        with self._mutex:
            if line in self._told:
                return
            self._told.add(line)
        self._said(f"kv cache: {line}")


def _as_bytes(tokens: TokenIds) -> bytes:
    if tokens.ndim != 1 or tokens.dtype != np.int32:
        raise UsageError(f"token ids are {tokens.dtype} {tokens.shape}, but must be int32 (n,)")
    return tokens.astype("<i4", copy=False).tobytes()


def _head_itself(_stream: entry.Stream, head: entry.Head) -> entry.Head:
    return head


def _in_words(error: OSError) -> str:
    if error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return str(error)
