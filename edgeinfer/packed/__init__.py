"""Weights in our packed layout, kept in files: a second load maps what the first one packed.

    packed/KEY.bin    one image a model, layout and instruction set (`image` has the format, `identity` the key)

A model's pages are then those of a file: another process that loads it shares them, and the system drops them when it
needs memory and reads them again. The first load packs as always and writes the image afterwards (`writer`); an image
that cannot be used is removed, and said once. On Windows our kernels do not run under llama.cpp, so there is nothing to
keep. ``EDGEINFER_PACKED_CACHE=0`` switches it off.

Knows nothing of engines: those say when a model loads and when its weights are freed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgeinfer.kernels.recording import Image, Recording, recording
from edgeinfer.packed import image, store
from edgeinfer.packed.identity import Identity, identify
from edgeinfer.packed.store import Usage, cap_bytes, folder, usage
from edgeinfer.packed.writer import Writer

__all__ = ["PackedWeights", "Usage", "cap_bytes", "folder", "loading", "ready", "usage"]


class PackedWeights:
    """What became of one load. ``mapped``: its weights are those of an image; ``notice``: a line for the user, or
    nothing. `close` comes before the model is freed."""

    def __init__(self, *, mapped: bool = False, notice: str = "", writer: Writer | None = None) -> None:
        self.mapped = mapped
        self.notice = notice
        self._writer = writer

    def close(self) -> None:
        """Return when nobody reads the model's memory any more; a copy that is nearly done may take some seconds."""
        if self._writer is not None:
            self._writer.finish()
            self._writer = None


@dataclass(slots=True)
class Loading:
    """A load that is going on. ``weights`` is what became of it, once it has ended."""

    weights: PackedWeights = field(default_factory=PackedWeights)


@contextlib.contextmanager
def loading(path: Path, *, wanted: bool) -> Iterator[Loading]:
    """Around the load of the model at ``path``, on the thread that loads, inside `kernels.loading`. ``wanted``: our
    kernels run, and the model may be mapped. A load that raises leaves nothing."""
    going_on = Loading()
    found = identify(path) if wanted and cap_bytes() else None
    if found is None:
        yield going_on
        return
    opened, notice = None, ""
    try:
        opened = _open(found.key)
    except (image.Unfit, OSError) as error:
        notice = _removed(store.image_path(found.key), str(error))
    try:
        with recording(opened) as load:
            yield going_on
    finally:
        if opened is not None:
            os.close(opened.descriptor)
    going_on.weights = _kept(load, path, found, opened, notice)


def ready(path: Path) -> bool:
    """Whether a load of this model would find its weights packed. Raises `BackendUnavailable` without the library."""
    found = identify(path) if cap_bytes() else None
    if found is None:
        return False
    try:
        opened = _open(found.key)
    except (image.Unfit, OSError):
        return False
    if opened is not None:
        os.close(opened.descriptor)
    return opened is not None


def _open(key: str) -> Image | None:
    """The image of that key, its file open; None where there is none. Raises `Unfit`, `OSError`."""
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe of that name shall not hold us up
    try:
        descriptor = os.open(store.image_path(key), os.O_RDONLY | flags)
    except FileNotFoundError:
        return None
    try:
        return image.read(descriptor, key)
    except BaseException:
        os.close(descriptor)
        raise


def _removed(path: Path, why: str) -> str:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return f"packed weights in {path} cannot be used ({why}), nor be removed ({error.strerror})"
    return f"packed weights in {path} were removed, because they could not be used: {why}; they are packed again"


def _kept(load: Recording, path: Path, found: Identity, opened: Image | None, notice: str) -> PackedWeights:
    """What is to be done once the load is over: note that the image was used, or make one."""
    target = store.image_path(found.key)
    if opened is not None:
        if load.n_found == len(load.weights) == len(opened.weights):
            store.used(target)
            return PackedWeights(mapped=True)
        notice = _removed(target, "they are not those of this model")
    if not load.weights or not load.whole or not found.settled:
        return PackedWeights(notice=notice)
    return PackedWeights(notice=notice, writer=Writer(load, path, found.key))
