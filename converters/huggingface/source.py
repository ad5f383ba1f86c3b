"""A checkpoint as what a GGUF file of it would be, without writing that file: its metadata, and a source of its tensors
under their GGUF names. Reads what is asked for, some rows at a time."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinfer import gguf
from edgeinfer.catalog.store import Progress, Quiet
from edgeinfer.converters.huggingface.architectures import describe
from edgeinfer.converters.huggingface.checkpoint import Checkpoint, open_checkpoint
from edgeinfer.converters.huggingface.description import Description, Target
from edgeinfer.converters.huggingface.metadata import KEYS, metadata, source_hashes
from edgeinfer.converters.huggingface.weights import Weights
from edgeinfer.converters.sources import Bytes, SourceTensor
from edgeinfer.gguf import TENSOR_TYPES, GGUFFile, TensorInfo, writer

__all__ = ["CheckpointModel", "CheckpointSource", "open_model"]

Floats = npt.NDArray[np.float32]
_KINDS = {kind.name: kind for kind in TENSOR_TYPES.values()}
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class CheckpointModel:
    """``file``: the model's metadata and its tensors' names, shapes and types; there is nothing to read at its path,
    the checkpoint's folder. ``sha256``: of the weights; of several files, of their hashes. ``notes`` are for people."""

    file: GGUFFile
    source: CheckpointSource
    sha256: str
    notes: tuple[str, ...]


class CheckpointSource:
    """The `TensorSource` of a checkpoint. Types are those that it stores; what is changed on its way, such as Gemma's
    norms, is F32."""

    def __init__(self, checkpoint: Checkpoint, described: Description, weights: Weights) -> None:
        self.label = str(checkpoint.folder)
        self._weights = weights
        self._targets = {target.name: target for target in described.targets}
        self.tensors = {name: _tensor(target, checkpoint) for name, target in self._targets.items()}

    def rows(self, name: str, first: int, n_rows: int) -> Bytes:
        target, tensor = self._targets[name], self.tensors[name]
        if len(target.shape) == 1:
            n_rows = target.shape[0]
        found = self._weights.rows(target, first, n_rows)
        return _narrowed(found, tensor.type).reshape(-1, tensor.row_bytes)


@contextmanager
def open_model(folder: Path, source: str | None = None, progress: Progress | None = None) -> Iterator[CheckpointModel]:
    """The checkpoint in ``folder``, checked as far as its headers go. ``source``: what to call it, such as
    hf:owner/repo.

    Raises what `open_checkpoint` and `describe` raise, and `FormatError` naming every tensor that is missing,
    unexpected or of another shape.
    """
    checkpoint = open_checkpoint(folder)
    described = describe(checkpoint)
    described.check(checkpoint.tensors, str(folder))
    keys = metadata(checkpoint, described, source, {}) | source_hashes(checkpoint, progress or Quiet())
    with Weights(checkpoint) as weights:
        tensors = CheckpointSource(checkpoint, described, weights)
        file = _header({key: writer.encoded(value) for key, value in keys.items()})
        file = replace(file, path=folder, tensors=_infos(tensors, folder))
        hashes = keys[KEYS + "sha256"]
        yield CheckpointModel(file, tensors, _one_hash([str(each) for each in np.ravel(hashes)]), described.notes)


def _header(keys: dict[str, bytes]) -> GGUFFile:
    """Written and read back, so that metadata of checkpoints go through the same proofs as those of files."""
    with tempfile.TemporaryDirectory(prefix="edgeinfer-") as folder:
        path = Path(folder) / "header.gguf"
        with path.open("xb") as stream:
            writer.write(stream, keys, [])
        return gguf.read_structure(path)


def _infos(source: CheckpointSource, folder: Path) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(name, tensor.shape[::-1], _KINDS[tensor.type], 0, tensor.n_rows * tensor.row_bytes, folder)
        for name, tensor in source.tensors.items()
    }


def _tensor(target: Target, checkpoint: Checkpoint) -> SourceTensor:
    stored = {checkpoint.tensors[source.name].dtype for source in target.sources}
    changed = any(source.shift != 0 or source.scale != 1 for source in target.sources)
    kind = next(iter(stored)) if len(stored) == 1 and not changed else "F32"
    kind = kind if kind in _ITEM_BYTES else "F32"
    return SourceTensor(target.shape, kind, target.shape[-1] * _ITEM_BYTES[kind])


def _narrowed(rows: Floats, kind: str) -> Bytes:
    """Floats that came from a type, back in it: exact."""
    if kind == "BF16":
        return np.ascontiguousarray(rows.view("<u2").reshape(-1, 2)[:, 1]).view(np.uint8)
    return np.ascontiguousarray(rows, "<f2" if kind == "F16" else "<f4").view(np.uint8)


def _one_hash(hashes: list[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
