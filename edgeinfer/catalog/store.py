"""The folder of models: files arrive in a place of their own, part by part, and get their name only when the hash is
right.

    models/NAME.gguf                    a whole, checked file
    models/.pulling/NAME.gguf.lock      held by whoever pulls it; freed by the system if that process dies
    models/.pulling/NAME.gguf/partial   the parts that arrived, joined
    models/.pulling/NAME.gguf/parts.json   their sizes, written after they are on disk: where a resume starts

Knows no source.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from edgeinfer import env, files
from edgeinfer.catalog.card import Card
from edgeinfer.errors import DownloadError

__all__ = ["Progress", "Quiet", "Staging", "file_sha256", "link_or_copy", "models_dir", "need_space"]

BLOCK_BYTES = 1 << 20
_MARGIN_BYTES = 64 << 20
_STAGING = ".pulling"


class Progress(Protocol):
    """Who wants to know how a pull, or a check of a file, gets on. Called often; must be quick."""

    def update(self, done_bytes: int, total_bytes: int) -> None: ...

    def note(self, text: str) -> None:
        """A remark of one line: what begins, what was resumed, who is waited for."""
        ...


class Quiet:
    """A `Progress` that says nothing."""

    def update(self, done_bytes: int, total_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def models_dir() -> Path:
    """Where pulled models lie (``EDGEINFER_MODELS``)."""
    return env.models_dir()


def file_sha256(path: Path, report: Callable[[int], None] = lambda _done: None) -> str:
    """The hash of a file; ``report`` is told the bytes done so far."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            report(stream.tell())
    return digest.hexdigest()


def need_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raise `DownloadError` where the disk below ``folder`` has no room for ``n_bytes`` and a little more."""
    free = shutil.disk_usage(folder).free
    if n_bytes + _MARGIN_BYTES > free:
        raise DownloadError(
            f"{what} needs {n_bytes / 1e6:.0f} MB more on the disk of {folder}, but {free / 1e6:.0f} MB are free; "
            "make room, or set EDGEINFER_MODELS to another disk"
        )


class Staging:
    """A model file that grows part by part and survives interruptions between parts.

    Use under `files.lock` of `lock_file`. `n_done` parts are already in ``partial``; `append` adds the next; `finish`
    checks and names the file.
    """

    def __init__(self, card: Card, *, source: str) -> None:
        self.card = card
        self.target = models_dir() / card.file
        self.folder = models_dir() / _STAGING / card.file
        self._partial = self.folder / "partial"
        self._journal = self.folder / "parts.json"
        self._source = source
        self._digest = hashlib.sha256()
        self._sizes: list[int] = []

    @staticmethod
    def lock_file(card: Card) -> Path:
        return models_dir() / _STAGING / f"{card.file}.lock"

    @property
    def n_done(self) -> int:
        return len(self._sizes)

    @property
    def done_bytes(self) -> int:
        return sum(self._sizes)

    @property
    def on_disk_bytes(self) -> int:
        """What an earlier pull left, whole or not."""
        try:
            return self._partial.stat().st_size
        except OSError:
            return 0

    def resume(self) -> None:
        """Take up what an earlier pull left, as far as it is known to be whole; drop the rest."""
        files.private_dir(self.folder)
        for stale in self.folder.iterdir():
            if stale not in (self._partial, self._journal):
                _remove(stale)
        sizes = self._recorded()
        try:
            with self._partial.open("r+b") as stream:
                stream.truncate(sum(sizes))
                for size in sizes:
                    self._hash(stream, size)
        except (OSError, DownloadError):
            self.discard()
            files.private_dir(self.folder)
            return
        self._sizes = sizes

    def _recorded(self) -> list[int]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            found: dict[str, Any] = json.loads(self._journal.read_text(encoding="utf-8"))
            sizes = found["sizes"]
            whole = all(type(size) is int and size > 0 for size in sizes)
            same = (found["sha256"], found["source"]) == (self.card.sha256, self._source)
            if whole and same and sum(sizes) <= min(self.card.bytes, self._partial.stat().st_size):
                return list(sizes)
        return []

    def _hash(self, stream: IO[bytes], n_bytes: int) -> None:
        while n_bytes:
            block = stream.read(min(n_bytes, BLOCK_BYTES))
            if not block:
                raise DownloadError(f"{self._partial} became shorter")
            self._digest.update(block)
            n_bytes -= len(block)

    def append(self, part: IO[bytes], report: Callable[[int], None]) -> None:
        """Add a part to the end. Raises `DownloadError` if that would make the file longer than its card says."""
        done, room = 0, self.card.bytes - self.done_bytes
        with self._partial.open("r+b" if self._partial.exists() else "w+b") as stream:
            stream.seek(self.done_bytes)
            while block := part.read(BLOCK_BYTES):
                done += len(block)
                if done > room:
                    raise DownloadError(f"{self.card.name}: part {self.n_done + 1} is longer than the card allows")
                stream.write(block)
                self._digest.update(block)
                report(self.done_bytes + done)
            stream.flush()
            os.fsync(stream.fileno())
        if not done:
            raise DownloadError(f"{self.card.name}: part {self.n_done + 1} is empty")
        self._sizes.append(done)
        record = {"sha256": self.card.sha256, "source": self._source, "sizes": self._sizes}
        files.atomic_write(self._journal, json.dumps(record))

    def finish(self) -> Path:
        """Give the file its name if it is the one on the card; drop it and raise `DownloadError` if not."""
        n_bytes, got = self.done_bytes, self._digest.hexdigest()
        if n_bytes != self.card.bytes or got != self.card.sha256:
            self.discard()
            raise DownloadError(
                f"{self.card.name}: the {self._source} source delivered another file: expected {self.card.bytes} bytes "
                f"with SHA-256 {self.card.sha256}, got {n_bytes} with {got}; what arrived was removed"
            )
        os.replace(self._partial, self.target)
        files.sync_dir(self.target.parent)
        _remove(self.folder)
        return self.target

    def discard(self) -> None:
        """Forget everything that arrived."""
        _remove(self.folder)
        self._digest = hashlib.sha256()
        self._sizes = []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a second name of ``source`` where the file system can, a copy where it cannot. Atomic either
    way."""
    files.private_dir(target.parent)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        os.link(source.resolve(), temporary)
        os.replace(temporary, target)
        files.sync_dir(target.parent)
    except OSError:
        _remove(temporary)
        need_space(target.parent, source.stat().st_size, target.name)
        with source.open("rb") as stream, files.open_atomic(target, mode=0o644) as out:
            shutil.copyfileobj(stream, out, BLOCK_BYTES)
