"""Models from Hugging Face, through its own library and its own cache (``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``).

A reference is ``hf:owner/repo``, ``hf:owner/repo:QUANT`` or ``hf:owner/repo:FILE.gguf``. The library is optional and
imported on use.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgeinfer import env
from edgeinfer.catalog.card import Card, HFSource
from edgeinfer.catalog.store import Progress, file_sha256, link_or_copy, models_dir, need_space
from edgeinfer.errors import BackendUnavailable, DownloadError, EdgeInferError, ModelNotFound, UsageError

__all__ = ["DEFAULT_QUANT", "Reference", "cached", "choose_files", "fetch", "fetch_files", "parse_reference", "pull"]

DEFAULT_QUANT = "Q4_K_M"

_REFERENCE = re.compile(r"hf:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<what>[\w./-]+))?", re.ASCII)
_PART = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})")
_NO_MODEL = re.compile(r"(^|[-_.])(mmproj|imatrix)([-_.]|$)", re.IGNORECASE)
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Reference:
    """``quant`` is a quantization's or a file's name; None: Q4_K_M, or the only model there is."""

    repo: str
    quant: str | None = None

    @property
    def name(self) -> str:
        return f"hf:{self.repo}" + (f":{self.quant}" if self.quant else "")


def parse_reference(text: str) -> Reference:
    """Raises `UsageError`."""
    match = _REFERENCE.fullmatch(text)
    if not match or ".." in text:
        raise UsageError(f"{text!r} is no Hugging Face model: write hf:owner/repo or hf:owner/repo:{DEFAULT_QUANT}")
    return Reference(match["repo"], match["what"])


def choose_files(names: Sequence[str], reference: Reference) -> list[str]:
    """The GGUF file that a reference means, in its parts if it is split. Raises `ModelNotFound` with the choices
    there are."""
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix.lower() == ".gguf" and not _NO_MODEL.search(path.stem):
            part = _PART.fullmatch(path.stem)
            models.setdefault(str(path.with_name(part["stem"] if part else path.stem)), []).append(name)
    if not models:
        raise ModelNotFound(f"hf:{reference.repo} holds no GGUF file; look for a repository with GGUF in its name")
    found = _matching(models, reference.quant)
    if len(found) != 1:
        choices = ", ".join(sorted({_quant_of(stem) for stem in models}))
        why = (
            f"more than one file of {reference.quant or DEFAULT_QUANT}"
            if found
            else f"no {reference.quant or DEFAULT_QUANT}"
        )
        listed = ", ".join(sorted(found)) if found else choices
        raise ModelNotFound(f"hf:{reference.repo} holds {why}; name one of: {listed}")
    parts = models[found[0]]
    last = _PART.fullmatch(PurePosixPath(parts[-1]).stem)
    if last and int(last["count"]) != len(parts):
        raise ModelNotFound(f"hf:{reference.repo} holds {len(parts)} of the {int(last['count'])} parts of {found[0]}")
    return parts


def _matching(models: dict[str, list[str]], quant: str | None) -> list[str]:
    wanted = (quant or DEFAULT_QUANT).lower()
    by_name = [stem for stem, parts in models.items() if wanted in (stem.lower(), *(part.lower() for part in parts))]
    by_name = by_name or [stem for stem in models if wanted == PurePosixPath(stem).name.lower() + ".gguf"]
    by_quant = [stem for stem in models if re.search(rf"(^|[-._/]){re.escape(wanted)}$", stem.lower())]
    return by_name or by_quant or (list(models) if quant is None and len(models) == 1 else [])


def _quant_of(stem: str) -> str:
    """The quantization in a file's name as people write it, else the whole name."""
    match = re.search(r"(?:^|[-._/])((?:ud-)?(?:i?q\d\w*|tq\d\w*|mxfp4\w*|bf16|f16|f32|fp16))$", stem, re.IGNORECASE)
    return match[1] if match else stem


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise BackendUnavailable("hf: models need huggingface_hub; run: pip install 'edgeinfer[hf]'") from error
    return huggingface_hub


def cached(reference: Reference) -> Path | None:
    """The model in Hugging Face's cache, None when it is not there in full. Never touches the network."""
    _library()
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=reference.repo, repo_type="model")
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="ascii").strip()
        names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
        parts = choose_files(names, reference)
    except (OSError, ModelNotFound):
        return None
    return snapshot / parts[0]


def fetch(reference: Reference, progress: Progress) -> Path:
    """Bring the model into Hugging Face's cache and return its (first) file there. Raises `ModelNotFound`,
    `DownloadError`."""
    with _translated(reference.repo):
        info = _library().HfApi().model_info(reference.repo, files_metadata=True)
        known = {sibling.rfilename: sibling for sibling in info.siblings or []}
        parts = choose_files(list(known), reference)
        total, done = sum(known[name].size or 0 for name in parts), 0
        paths = []
        for name in parts:
            path = _download(reference.repo, name, info.sha, _Shifted(progress, done, total), known[name].size or 0)
            stored = known[name].lfs
            _check_hash(path, stored.sha256 if stored else None, progress)
            paths.append(path)
            done += known[name].size or 0
    return paths[0]


def fetch_files(repo: str, choose: Callable[[list[str]], list[str]], progress: Progress) -> Path:
    """Bring those files of a repository that ``choose`` takes into Hugging Face's cache and return their folder; where
    all of them are there and nothing may be fetched, just that. Raises `ModelNotFound`, `DownloadError`."""
    if env.offline():
        return _cached_folder(repo)
    with _translated(repo):
        info = _library().HfApi().model_info(repo, files_metadata=True)
        known = {sibling.rfilename: sibling for sibling in info.siblings or []}
        try:
            names = choose(list(known))
        except ModelNotFound as error:
            raise ModelNotFound(f"hf:{repo} {error}") from error
        total, done, folder = sum(known[name].size or 0 for name in names), 0, Path()
        for name in names:
            path = _download(repo, name, info.sha, _Shifted(progress, done, total), known[name].size or 0)
            stored = known[name].lfs
            _check_hash(path, stored.sha256 if stored else None, progress)
            folder = path.parents[len(PurePosixPath(name).parts) - 1]
            done += known[name].size or 0
    return folder


def _cached_folder(repo: str) -> Path:
    """The snapshot that was fetched last. Raises `ModelNotFound`."""
    _library()
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    try:
        return folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except OSError as error:
        raise ModelNotFound(
            f"hf:{repo} is not on this machine, and EDGEINFER_OFFLINE or HF_HUB_OFFLINE forbids to fetch it"
        ) from error


def pull(card: Card, source: HFSource, progress: Progress) -> Path:
    """Fetch a catalogue model and give it its name in the models folder. Under the model's lock."""
    with _translated(source.repo):
        path = _download(source.repo, source.file, None, progress, card.bytes)
    progress.note("checking the hash")
    got = file_sha256(path)
    if got != card.sha256:
        raise DownloadError(
            f"{card.name}: the hf source {source.repo} delivered another file: "
            f"expected SHA-256 {card.sha256}, got {got}"
        )
    target = models_dir() / card.file
    link_or_copy(path, target)
    return target


def _check_hash(path: Path, expected: str | None, progress: Progress) -> None:
    if expected is None:
        return
    progress.note("checking the hash")
    got = file_sha256(path)
    if got != expected:
        path.resolve().unlink()
        raise DownloadError(
            f"{path.name} arrived damaged: expected SHA-256 {expected}, got {got}; it was removed, try again"
        )


@dataclass(frozen=True, slots=True)
class _Shifted:
    """One file's progress as part of several."""

    inner: Progress
    before: int
    total: int

    def update(self, done_bytes: int, total_bytes: int) -> None:  # noqa: ARG002
        self.inner.update(min(self.before + done_bytes, self.total), self.total)

    def note(self, text: str) -> None:
        self.inner.note(text)


def _download(repo: str, name: str, revision: str | None, progress: Progress, n_bytes: int) -> Path:
    library = _library()
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    need_space(cache, n_bytes, f"hf:{repo}")
    with _watched(cache / repo_folder_name(repo_id=repo, repo_type="model") / "blobs", progress, n_bytes), _no_bars():
        path = Path(library.hf_hub_download(repo, name, revision=revision))
    progress.update(n_bytes, n_bytes)
    return path


@contextlib.contextmanager
def _watched(blobs: Path, progress: Progress, n_bytes: int) -> Iterator[None]:
    """Tell of the unfinished file's growth from a thread, as the library's own bars are not for us."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            sizes = []
            with contextlib.suppress(OSError):
                sizes = [path.stat().st_size for path in blobs.glob("*.incomplete")]
            if sizes:
                progress.update(min(max(sizes), n_bytes), n_bytes)

    thread = threading.Thread(target=watch, name="edgeinfer-pull", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    bars: Any = importlib.import_module("huggingface_hub.utils")  # its exports are lazy, unseen by type checkers
    before = bars.are_progress_bars_disabled()
    bars.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            bars.enable_progress_bars()


@contextlib.contextmanager
def _translated(repo: str) -> Iterator[None]:
    """Its errors as ours, on one line."""
    if env.offline():
        raise ModelNotFound(
            f"hf:{repo} is not on this machine, and EDGEINFER_OFFLINE or HF_HUB_OFFLINE forbids to fetch it"
        )
    _library()
    from huggingface_hub import errors

    try:
        yield
    except EdgeInferError:
        raise
    except errors.GatedRepoError as error:
        raise DownloadError(f"hf:{repo} is gated: accept its licence on its page, then set HF_TOKEN") from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelNotFound(f"hf:{repo} does not exist, or is private and needs HF_TOKEN ({_line(error)})") from error
    except Exception as error:  # the library lets the errors of whichever HTTP client it uses through
        raise DownloadError(
            f"hf:{repo} could not be fetched: {_line(error)}; run the command again to resume"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
