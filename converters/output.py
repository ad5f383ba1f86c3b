"""A GGUF model on its way to disk: room is looked for first, and the file gets its name when it is on disk, whole, and
has been read back. Knows nothing of where tensors come from."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgeinfer import gguf
from edgeinfer.catalog.store import file_sha256
from edgeinfer.errors import EdgeInferError, FormatError, UsageError
from edgeinfer.files import open_atomic, try_lock
from edgeinfer.gguf import writer
from edgeinfer.gguf.writer import NewTensor

__all__ = ["Written", "check_target", "need_room", "workspace", "write_model"]

_MARGIN_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """A finished file."""

    path: Path
    n_bytes: int
    sha256: str


def check_target(target: Path, force: bool) -> None:
    """Raise `UsageError` for a name that cannot be written to, or is taken and not to be replaced."""
    if target.is_dir():
        raise UsageError(f"{target} is a folder; give the name of the file to write")
    if target.exists() and not force:
        raise UsageError(f"{target} exists already; pass --force to replace it")


def need_room(target: Path, n_bytes: int) -> None:
    """Raise `EdgeInferError` where the disk has no room for a file of that length."""
    folder = next(folder for folder in target.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if n_bytes + _MARGIN_BYTES > free:
        raise EdgeInferError(
            f"{target.name} needs {n_bytes / 1e6:.0f} MB, but the disk of {folder} has {free / 1e6:.0f} MB free; "
            "make room, or write to another disk"
        )


@contextlib.contextmanager
def workspace(target: Path, purpose: str) -> Iterator[Path]:
    """An empty folder beside ``target`` for files on the way to it, gone at the end. What a process that died left in
    it is removed by the next. Raises `UsageError` where another process has it."""
    folder = target.with_name(f"{target.name}.{purpose}.partial")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("wb") as claim:
        if not try_lock(claim.fileno()):
            raise UsageError(f"another process is writing {target}; wait for it, or choose another name")
        for stale in folder.iterdir():
            if stale.is_dir() and not stale.is_symlink():
                shutil.rmtree(stale)
            elif stale.name != "lock":
                stale.unlink()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # where an open file cannot be removed


def write_model(target: Path, keys: Mapping[str, bytes], tensors: Sequence[NewTensor], *, force: bool) -> Written:
    """Write a model whole or not at all, and prove what is on disk: the bytes that were written, and sound to
    `edgeinfer.gguf`. Raises `UsageError` for a taken name, `EdgeInferError` where the disk is too small or fails."""
    check_target(target, force)
    need_room(target, writer.planned_bytes(keys, tensors))
    found = ""

    def check(written: Path) -> None:
        nonlocal found
        found = file_sha256(written)
        if found != hashed.hexdigest():
            raise FormatError(f"{written} is not what was written to it; the disk is at fault, or who else wrote there")
        gguf.read(written)

    hashed = hashlib.sha256()
    try:
        with open_atomic(target, mode=0o644, partial=True, check=check) as stream:
            writer.write(_Hashed(stream, hashed), keys, tensors)  # type: ignore[arg-type]
    except OSError as error:
        reason = error.strerror or error
        raise EdgeInferError(f"{target} could not be written: {reason}; nothing is left of it") from error
    return Written(target, target.stat().st_size, found)


class _Hashed:
    """A stream for writing that hashes what passes."""

    def __init__(self, stream: IO[bytes], digest: hashlib._Hash) -> None:
        self._stream, self._digest = stream, digest

    def write(self, data: bytes | memoryview) -> int:
        self._digest.update(data)
        return self._stream.write(data)
