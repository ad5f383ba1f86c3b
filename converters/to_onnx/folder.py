"""A folder that appears whole: made beside its place as ``NAME.partial``, flushed to disk, then renamed. Knows nothing
of what lies in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgeinfer import files
from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.onnx.package import MANIFEST

__all__ = ["check_target", "new_folder"]

_LOCK = ".lock"
_MARGIN_BYTES = 64 << 20


@contextlib.contextmanager
def new_folder(target: Path, n_bytes: int, force: bool) -> Iterator[Path]:
    """A new folder to write ``n_bytes`` into, which becomes ``target`` when the block ends well and vanishes when it
    does not. What an interrupted run left is cleared away, or brought back; ``force`` lets an older package be
    replaced, once the new one is whole.

    Raises `UsageError` where ``target`` exists, another process is writing it, or the disk has no room;
    `EdgeInferError` where the disk fails meanwhile.
    """
    target = Path(os.path.abspath(target))
    check_target(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with _own(partial):
        try:
            _check_space(target.parent, n_bytes)
            yield partial
            _sync(partial)
            _put(partial, target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = error.strerror or error
            raise EdgeInferError(f"{target} could not be written: {reason}; nothing is left of it") from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _replaced(target: Path) -> Path:
    """Where an older package lies for the moment in which the new one takes its name."""
    return target.with_name(target.name + ".old")


def _bring_back(target: Path) -> None:
    """A run that was killed in that moment left no package by the name."""
    old = _replaced(target)
    if (old / MANIFEST).is_file() and not os.path.lexists(target):
        os.replace(old, target)


def check_target(target: Path, force: bool) -> None:
    """Raise `UsageError` for a place that is taken and not to be replaced, or never is."""
    _bring_back(target)
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise UsageError(f"{target} exists and is no folder; name another")
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise UsageError(f"{target} exists and is no ONNX package, so it is not replaced; name another folder")
    if not force:
        raise UsageError(f"{target} exists; --force replaces it")


def _check_space(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes + _MARGIN_BYTES > free:
        raise UsageError(
            f"the package needs {n_bytes / 1e6:.0f} MB on the disk of {folder}, but {free / 1e6:.0f} MB are free"
        )


@contextlib.contextmanager
def _own(partial: Path) -> Iterator[None]:
    """Hold an empty folder alone: the lock in it is freed by the system if we die."""
    partial.mkdir(exist_ok=True)
    handle = os.open(partial / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not files.try_lock(handle):
            raise UsageError(f"another process is writing {partial}")
        for left in partial.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            elif left.name != _LOCK:
                left.unlink()
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            files.sync_dir(path)
        else:
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())


def _put(partial: Path, target: Path) -> None:
    (partial / _LOCK).unlink()
    old = _replaced(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    files.sync_dir(target.parent)
    shutil.rmtree(old, ignore_errors=True)
