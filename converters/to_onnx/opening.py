"""Models that can become packages: a GGUF file; the folder of a Hugging Face checkpoint, which is read as the GGUF file
that it would make; a package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeinfer import gguf
from edgeinfer.catalog.store import Progress
from edgeinfer.converters.architectures import describe
from edgeinfer.converters.architectures.decoder import Decoder, with_factors
from edgeinfer.converters.huggingface.source import open_model
from edgeinfer.converters.sources import GGUFSource, TensorSource, ViewSource
from edgeinfer.converters.to_onnx.graph_files import sha256
from edgeinfer.converters.to_onnx.package_model import open_package
from edgeinfer.gguf import GGUFFile
from edgeinfer.onnx.package import MANIFEST, Package

__all__ = ["Model", "opened"]


@dataclass(frozen=True, slots=True)
class Model:
    """``file``: its metadata, and what its tensors are; ``source`` reads those that a graph of ``decoder`` has.
    ``name``: what it is called where nobody says otherwise; ``file_name`` and ``sha256`` say what it was made from.
    ``notes`` are for people. ``package``: what the model is, where it is one."""

    file: GGUFFile
    decoder: Decoder
    source: TensorSource
    name: str
    file_name: str
    sha256: Callable[[], str]
    notes: tuple[str, ...] = ()
    package: Package | None = None


@contextmanager
def opened(path: Path, reference: str | None = None, progress: Progress | None = None) -> Iterator[Model]:
    """The model at ``path``, its weights readable within the block, its tensors those of its architecture.
    ``reference``: what to call a checkpoint. Raises what `gguf.read`, `open_model`, `open_package` and `describe`
    raise, and `FormatError` naming every tensor that is missing, unexpected or of another shape."""
    if (path / MANIFEST).is_file():
        with open_package(path, progress) as (package, file, decoder, tensors):
            yield Model(
                *(file, decoder, tensors, package.name, path.resolve().name),
                lambda: sha256([path / MANIFEST]),
                package=package,
            )
    elif path.is_dir():
        with open_model(path, reference, progress) as found:
            name = path.resolve().name
            decoder, source = _described(found.file, found.source)
            yield Model(found.file, decoder, source, name, name, lambda: found.sha256, found.notes)
    else:
        file = gguf.read(path)
        with GGUFSource(file) as whole:
            decoder, source = _described(file, whole)
            parts = gguf.part_paths(file)
            yield Model(file, decoder, source, file.path.stem, file.path.name, lambda: sha256(parts))


def _described(file: GGUFFile, source: TensorSource) -> tuple[Decoder, TensorSource]:
    """The model, and its tensors as a graph wants them."""
    decoder = describe(file)
    decoder.check(source.tensors, source.label)
    decoder = with_factors(decoder, source)
    return decoder, ViewSource(source, decoder.views) if decoder.views else source
