"""The files of each variant: graphs, their data, and what the host looks up beside them. Knows no operator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.sources import TensorSource, pieces
from edgeinfer.converters.to_onnx import variants
from edgeinfer.converters.to_onnx.activations import Activations
from edgeinfer.converters.to_onnx.column_matrices import ColumnMatrices
from edgeinfer.converters.to_onnx.data_file import DataFile
from edgeinfer.converters.to_onnx.encoder_plan import encoder_plan
from edgeinfer.converters.to_onnx.measures import Measures
from edgeinfer.converters.to_onnx.mixture import Mixture
from edgeinfer.converters.to_onnx.plan import plan
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.converters.to_onnx.table import TABLE, stored_table
from edgeinfer.converters.to_onnx.weights import Weights
from edgeinfer.gguf import GGUFFile
from edgeinfer.gguf import writer as gguf_writer
from edgeinfer.onnx.package import File, TensorForm, Variant

__all__ = ["Job", "described", "sha256", "write_dynamic", "write_static"]

_DYNAMIC = ("model.onnx", "model.onnx.data")
_STATIC = "npu"
_SIZES = (1, 8, 64)
_BLOCK_BYTES = 1 << 20
_PIECE_BYTES = 8 << 20


@dataclass(slots=True)
class Job:
    """One conversion: what goes in, and what has been found out on the way. ``advance`` is told the bytes read."""

    file: GGUFFile
    decoder: Decoder
    source: TensorSource
    mixture: Mixture
    folder: Path
    advance: Callable[[int], None]
    rounding: Rounding = field(default_factory=Rounding)
    activations: Activations | None = None
    tensors: dict[str, TensorForm] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)

    def weights(self, data: DataFile, measures: Measures) -> Weights:
        return Weights(self.decoder, self.source, data, self.mixture, measures, self.rounding)

    def plan(self) -> ir.Model:
        kind = self.decoder.bidirectional
        if kind is not None:
            return encoder_plan(self.decoder, kind, self.source.tensors)
        return plan(self.decoder, self.source.tensors)


def write_dynamic(job: Job) -> Variant:
    """The graph of variants ``cpu`` and ``cuda``."""
    graph, data = (job.folder / name for name in _DYNAMIC)
    measures = Measures(job.advance)
    with DataFile(data) as stored:
        weights = job.weights(stored, measures)
        ir.save(variants.dynamic(job.plan(), job.decoder, weights), graph)
    job.tensors |= weights.tensors
    job.measured |= measures.summary()
    return Variant(_DYNAMIC[0], described(job.folder, _DYNAMIC))


def write_static(job: Job, n_ctx: int) -> Variant:
    """The graphs of variant ``npu``, which share their data, and the table of embeddings for the host."""
    folder, measures = job.folder / _STATIC, Measures(job.advance)
    folder.mkdir()
    graphs = [f"{_STATIC}/s{size}.onnx" for size in _SIZES]
    with DataFile(folder / _DYNAMIC[1]) as stored:
        weights = job.weights(stored, measures)
        matrices = ColumnMatrices(weights)
        for size, name in zip(_SIZES, graphs, strict=True):
            model = variants.static(job.plan(), job.decoder, weights, matrices, size, n_ctx, job.activations)
            ir.save(model, job.folder / name)
    _write_table(job, folder / TABLE)
    job.tensors = weights.tensors | job.tensors
    job.measured |= {f"npu_{name}" if job.measured else name: value for name, value in measures.summary().items()}
    files = [*graphs, f"{_STATIC}/{_DYNAMIC[1]}", f"{_STATIC}/{TABLE}"]
    return Variant(graphs[0], described(job.folder, files), _SIZES, n_ctx, tuple(graphs))


def _write_table(job: Job, path: Path) -> None:
    """A GGUF file with one tensor and the keys of the architecture."""
    name, kind, read = stored_table(job.source)
    tensor = job.source.tensors[name]

    def rows() -> Iterator[gguf_writer.Piece]:
        for first, n_rows in pieces(tensor, _PIECE_BYTES):
            job.advance(n_rows * tensor.row_bytes)
            yield read(first, n_rows)

    prefixes = ("general.", f"{job.decoder.architecture}.")
    keys = {key: job.file.metadata.stored(key) for key in job.file.metadata if key.startswith(prefixes)}
    with path.open("xb") as stream:
        gguf_writer.write(stream, keys, [gguf_writer.NewTensor(name, tensor.shape[::-1], kind, rows)])


def described(folder: Path, names: Iterable[str]) -> dict[str, File]:
    """Hashes and sizes of files."""
    return {name: File(sha256([folder / name]), (folder / name).stat().st_size) for name in names}


def sha256(paths: Iterable[Path]) -> str:
    """Of the contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
