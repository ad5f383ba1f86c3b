"""Weights in our packed layout, kept in files: a second load maps what the first one packed.

    packed/KEY.bin    one image a model, layout and instruction set (`image` has the format, `identity` the key)

A model's pages are then those of a file: another process that loads it shares them, and the system drops them when it
needs memory and reads them again. The first load packs as always and writes the image afterwards (`writer`); an image
that cannot be used is removed, and said once. On Windows nothing is kept. ``EDGEINFER_PACKED_CACHE=0`` switches it off.

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

__all__ = ["PackedWeights", "Packing", "Usage", "cap_bytes", "folder", "loading", "packing", "ready", "usage"]


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


@dataclass(slots=True)
class Packing:
    """Weights that the caller packs himself. ``image``: those of an earlier time, its file open, or None. ``load`` is
    his to fill in: each weight, how many of them he found in the image, and buffers that live until `PackedWeights` is
    closed. ``weights`` is what became of it, once it has ended."""

    image: Image | None = None
    load: Recording = field(default_factory=Recording)
    weights: PackedWeights = field(default_factory=PackedWeights)


@contextlib.contextmanager
def loading(path: Path, *, wanted: bool) -> Iterator[Loading]:
    """Around the load of the model at ``path``, on the thread that loads, inside `kernels.loading`. ``wanted``: our
    kernels run, and the model may be mapped. A load that raises leaves nothing."""
    going_on = Loading()
    with _searched(path, wanted=wanted) as packing:
        if packing is None:
            yield going_on
            return
        with recording(packing.image) as load:
            yield going_on
        packing.load = load
    going_on.weights = packing.weights


@contextlib.contextmanager
def packing(path: Path) -> Iterator[Packing]:
    """Around the packing of the model at ``path``, by whoever has no runtime that loads for him."""
    with _searched(path, wanted=hasattr(os, "pread")) as going_on:
        yield going_on or Packing()


@contextlib.contextmanager
def _searched(path: Path, *, wanted: bool) -> Iterator[Packing | None]:
    """The image of that model, open while weights are packed or found, and what is to be done afterwards. None where
    nothing shall be kept."""
    found = identify(path) if wanted and cap_bytes() else None
    if found is None:
        yield None
        return
    going_on, notice = Packing(), ""
    try:
        going_on.image = _open(found.key)
    except (image.Unfit, OSError) as error:
        notice = _removed(store.image_path(found.key), str(error))
    try:
        yield going_on
    finally:
        if going_on.image is not None:
            os.close(going_on.image.descriptor)
    going_on.weights = _kept(going_on.load, path, found, going_on.image, notice)


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
