"""Models that can become packages: a GGUF file, or the folder of a Hugging Face checkpoint, which is read as the GGUF
file that it would make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeinfer import gguf
from edgeinfer.catalog.store import Progress
from edgeinfer.converters.huggingface.source import open_model
from edgeinfer.converters.sources import GGUFSource, TensorSource
from edgeinfer.converters.to_onnx.graph_files import sha256
from edgeinfer.gguf import GGUFFile

__all__ = ["Model", "opened"]


@dataclass(frozen=True, slots=True)
class Model:
    """``file``: its metadata, and what its tensors are; ``source`` reads these. ``name``: what it is called where
    nobody says otherwise; ``file_name`` and ``sha256`` say what it was made from. ``notes`` are for people."""

    file: GGUFFile
    source: TensorSource
    name: str
    file_name: str
    sha256: Callable[[], str]
    notes: tuple[str, ...] = ()


@contextmanager
def opened(path: Path, reference: str | None = None, progress: Progress | None = None) -> Iterator[Model]:
    """The model at ``path``, its weights readable within the block. ``reference``: what to call a checkpoint. Raises
    what `gguf.read` or `open_model` raise."""
    if path.is_dir():
        with open_model(path, reference, progress) as found:
            name = path.resolve().name
            yield Model(found.file, found.source, name, name, lambda: found.sha256, found.notes)
        return
    file = gguf.read(path)
    with GGUFSource(file) as source:
        yield Model(file, source, file.path.stem, file.path.name, lambda: sha256(gguf.part_paths(file)))
