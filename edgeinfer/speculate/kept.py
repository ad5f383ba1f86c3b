"""The folder of drafts: each is made when its model first drafts, and kept.

    cache/drafts/STEM-KEY.gguf           a whole draft; KEY says of what and how it was made
    cache/drafts/.locks/STEM-KEY.lock    held by whoever makes it; freed by the system if that process dies

What lies here can always be made again. Knows no engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgeinfer import coverage, env, files, gguf
from edgeinfer.catalog import Progress
from edgeinfer.catalog.store import Quiet
from edgeinfer.errors import DraftUnavailable, EdgeInferError
from edgeinfer.gguf import GGUFFile
from edgeinfer.speculate.build import BUILD_VERSION, KEYS, Recipe, build_draft, check_possible, planned_bytes
from edgeinfer.speculate.draft_file import fingerprint, read_draft

__all__ = ["KeptDraft", "drafts_dir", "ensure_draft", "kept_drafts", "remove_drafts"]

_MARGIN_BYTES = 64 << 20
_WORTH_IT = 0.95
"""A draft that reads more than this share of what its source reads is not made."""


@dataclass(frozen=True, slots=True)
class KeptDraft:
    """``source``: where the model lay that it was made of; None for what is no draft of ours, such as a leftover."""

    path: Path
    n_bytes: int
    source: Path | None


def drafts_dir() -> Path:
    """Where drafts lie. Not created here."""
    return env.cache_dir() / "drafts"


def ensure_draft(source: Path, recipe: Recipe | None = None, *, progress: Progress | None = None) -> Path:
    """The draft of the model ``source``, made now where it is not here yet: half a minute for half a billion weights.
    Another process that makes the same one is waited for. Drafts of what lay at ``source`` before are removed.

    Raises `DraftUnavailable` where none can be made, none would be cheaper than the source, or the disk has no room;
    `BackendUnavailable` without our library; `FormatError` and `ModelNotFound` for the source. Then the source itself
    can draft.
    """
    recipe, progress = recipe or Recipe(), progress or Quiet()
    file = gguf.read(source)
    identity = fingerprint(file)
    target = drafts_dir() / f"{_stem(source)}-{_key(identity, recipe)}.gguf"
    if _is_sound(target, identity):
        return target
    _check(file, recipe)
    try:
        _make(file, target, recipe, identity, progress)
    except OSError as error:
        raise DraftUnavailable(f"cannot write a draft to {target.parent}: {error.strerror or error}") from error
    return target


def _make(file: GGUFFile, target: Path, recipe: Recipe, identity: str, progress: Progress) -> None:
    note = f"another process makes the draft of {file.path.name}; waiting for it"
    with files.lock(target.parent / ".locks" / f"{target.stem}.lock", lambda: progress.note(note)):
        if _is_sound(target, identity):
            return
        for leftover in target.parent.glob(f".{target.name}.*.tmp"):  # of a process that was killed
            leftover.unlink()
        _check_space(target.parent, planned_bytes(file, recipe))
        progress.note(f"making a draft of {file.path.name}, once")
        build_draft(file.path, target, recipe, identity, progress)
    for other in kept_drafts():
        if other.source == file.path.absolute() and other.path != target:
            _unlink(other.path)


def _stem(source: Path) -> str:
    """Of the source's name what may be in a file's name anywhere."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", source.stem)[:60].lstrip(".-") or "model"


def _key(identity: str, recipe: Recipe) -> str:
    return hashlib.sha256(f"{BUILD_VERSION} {identity} {recipe}".encode()).hexdigest()[:16]


def _is_sound(path: Path, identity: str) -> bool:
    """False as well for a draft that was damaged since: it is made again."""
    try:
        return path.is_file() and read_draft(path).fingerprint == identity
    except EdgeInferError:
        return False


def _check(file: GGUFFile, recipe: Recipe) -> None:
    check_possible(file)
    draft_bytes, source_bytes = planned_bytes(file, recipe), coverage.work(file).decode_bytes
    if draft_bytes > _WORTH_IT * source_bytes:
        raise DraftUnavailable(
            f"a draft of {file.path.name} would read {draft_bytes / 1e6:.0f} MB a token, "
            f"and the model itself reads {source_bytes / 1e6:.0f}"
        )


def _check_space(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes + _MARGIN_BYTES > free:
        raise DraftUnavailable(
            f"a draft needs {n_bytes / 1e6:.0f} MB on the disk of {folder}, but {free / 1e6:.0f} MB are free"
        )


def kept_drafts() -> list[KeptDraft]:
    """All that lies in the folder, leftovers included."""
    return [
        KeptDraft(path, path.stat().st_size, _source(path))
        for path in sorted(drafts_dir().glob("*"))
        if path.suffix in (".gguf", ".tmp") and path.is_file()
    ]


def _source(path: Path) -> Path | None:
    with contextlib.suppress(EdgeInferError):
        return Path(gguf.read_structure(path).metadata.text(KEYS + "source"))
    return None


def remove_drafts(source: Path | None = None) -> int:
    """Remove the drafts of the model that lies, or lay, at ``source``; of all models, and leftovers, without one.
    Answers how many bytes that frees. A draft that is in use stays readable to its engine where the system allows."""
    wanted = None if source is None else source.absolute()
    return sum(_unlink(kept.path) for kept in kept_drafts() if wanted is None or kept.source == wanted)


def _unlink(path: Path) -> int:
    """Bytes freed: none where the system does not let go of a file in use."""
    try:
        n_bytes = path.stat().st_size
        path.unlink()
    except OSError:
        return 0
    files.sync_dir(path.parent)
    return n_bytes
