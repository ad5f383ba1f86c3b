"""The hash of a model's file, remembered: reading gigabytes at every start would cost what saved states spare.

Remembered with size, inode and both times of the file, and believed while all of them are the same. Setting back a
file's modification time does not deceive it: the time of its last change comes from the system.

    {"/models/x.gguf": [size, inode, mtime_ns, ctime_ns, "sha256"]}
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from edgeinfer import env, files
from edgeinfer.catalog.store import file_sha256

__all__ = ["known_hash", "weights_hash"]

_MAX_BYTES = 1 << 20
_MAX_FILES = 200
_SETTLED_NS = 2_000_000_000  # a file system may count time in steps of two seconds
_SHA256 = re.compile(r"[0-9a-f]{64}")

_Facts = list[int | str]


def weights_hash(path: Path, report: Callable[[int], None] = lambda _done: None) -> str:
    """SHA-256 of the whole file, in hex. The first time it reads all of it (``report`` is told the bytes done), after
    that next to nothing. Raises `OSError` where the file cannot be read."""
    known = known_hash(path)
    if known is not None:
        return known
    name, before = os.path.realpath(path), _identity(path)
    digest = file_sha256(path, report)
    after = _identity(path)
    if after == before and time.time_ns() - max(os.stat(path).st_mtime_ns, os.stat(path).st_ctime_ns) > _SETTLED_NS:
        with contextlib.suppress(OSError):  # then it is read again next time
            _remember(name, [*before, digest])
    return digest


def known_hash(path: Path) -> str | None:
    """The same where it is remembered. Raises `OSError` as `weights_hash`."""
    known = _remembered().get(os.path.realpath(path))
    return str(known[-1]) if known is not None and known[:-1] == _identity(path) else None


def _identity(path: Path) -> _Facts:
    info = os.stat(path)
    return [info.st_size, info.st_ino, info.st_mtime_ns, info.st_ctime_ns]


def _memory() -> Path:
    return env.cache_dir() / "kv" / "weights.json"


def _remembered() -> dict[str, _Facts]:
    """What is remembered and makes sense; a damaged file is as good as none."""
    try:
        with _memory().open("rb") as stream:
            document = json.loads(stream.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    items = document.items() if isinstance(document, dict) else ()
    return {name: facts for name, facts in items if _makes_sense(facts)}


def _makes_sense(facts: object) -> bool:
    return (
        isinstance(facts, list)
        and len(facts) == 5
        and all(type(number) is int for number in facts[:4])
        and isinstance(facts[4], str)
        and _SHA256.fullmatch(facts[4]) is not None
    )


def _remember(name: str, facts: _Facts) -> None:
    """Two processes that remember at once: one of them reads its file again next time."""
    known = _remembered()
    known.pop(name, None)
    newest = dict([*known.items(), (name, facts)][-_MAX_FILES:])
    files.private_dir(env.cache_dir())
    files.atomic_write(_memory(), json.dumps(newest))
