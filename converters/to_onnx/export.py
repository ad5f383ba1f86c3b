"""The front door: a GGUF model becomes the folder of an ONNX package, whole or not at all. Owns the order of things;
knows no tensor's layout and no operator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import onnx_ir as ir

from edgeinfer import __version__, gguf
from edgeinfer.converters.architectures import describe
from edgeinfer.converters.architectures.decoder import Decoder, check_tensors
from edgeinfer.converters.sources import GGUFSource, TensorSource
from edgeinfer.converters.to_onnx import variants
from edgeinfer.converters.to_onnx.data_file import DataFile
from edgeinfer.converters.to_onnx.genai import write_genai
from edgeinfer.converters.to_onnx.folder import new_folder
from edgeinfer.converters.to_onnx.measures import Measures
from edgeinfer.converters.to_onnx.plan import plan
from edgeinfer.converters.to_onnx.requantize import Quant, check_quant
from edgeinfer.converters.to_onnx.space import package_bytes
from edgeinfer.converters.to_onnx.weights import Weights
from edgeinfer.gguf import GGUFFile
from edgeinfer.gguf import writer as gguf_writer
from edgeinfer.onnx.package import MANIFEST, VOCABULARY, File, Package, TensorForm, Variant

__all__ = ["VARIANTS", "VariantName", "export"]

VariantName = Literal["cpu", "npu", "cuda"]
VARIANTS: tuple[VariantName, ...] = ("cpu", "npu", "cuda")
_BLOCK_BYTES = 1 << 20
_DYNAMIC = ("model.onnx", "model.onnx.data")


class Progress(Protocol):
    def update(self, done_bytes: int, total_bytes: int) -> None: ...


class _Silent:
    def update(self, done_bytes: int, total_bytes: int) -> None:
        pass


@dataclass(slots=True)
class _Job:
    """One conversion: what goes in, and what has been found out on the way."""

    file: GGUFFile
    decoder: Decoder
    source: TensorSource
    quant: Quant
    folder: Path
    measures: Measures
    tensors: dict[str, TensorForm]


def export(
    path: str | Path,
    folder: str | Path,
    *,
    variant: Sequence[VariantName] = ("cpu",),
    quant: Quant = "keep",
    name: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Package:
    """Convert a GGUF model into a new folder, and answer what was made.

    Everything that can be known beforehand is checked before anything is written: the file's structure, its
    architecture, every tensor's name, shape and type, room on the disk. Memory: one piece of a tensor, some ten MB,
    beside the header. ``force`` replaces an older package.

    Raises what `gguf.read` does; `UnsupportedModel` for an architecture that has no ONNX form, `UnsupportedQuant` for
    tensors that cannot be kept, `FormatError` naming every tensor that is missing or unexpected, `UsageError` for a
    folder that is there already or a disk without room.
    """
    file = gguf.read(path)
    decoder = describe(file)
    shown = progress or _Silent()
    names = tuple(dict.fromkeys(variant))
    with GGUFSource(file) as source:
        check_tensors(decoder, source.tensors, source.label)
        check_quant(source, quant)
        needed = package_bytes(source, quant, decoder)
        total = (len({*names} - {"cuda"}) or 1) * sum(tensor.n_bytes for tensor in file.tensors.values())
        with new_folder(Path(folder), needed, force) as made:
            job = _Job(file, decoder, source, quant, made, Measures(_counter(shown, total)), {})
            package = _package(job, names, name or file.path.stem)
    return replace(package, folder=Path(folder))


def _counter(progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done = min(total, done + n_bytes)
        progress.update(done, total)

    return advance


def _package(job: _Job, names: Sequence[VariantName], name: str) -> Package:
    made: dict[str, Variant] = {}
    beside = [VOCABULARY]
    if {"cpu", "cuda"} & {*names}:
        _dynamic(job)
        dynamic = Variant(_DYNAMIC[0], _described(job.folder, _DYNAMIC))
        made |= {which: dynamic for which in ("cpu", "cuda") if which in names}
        beside += write_genai(job.file, job.decoder, job.folder, _DYNAMIC[0])
    with (job.folder / VOCABULARY).open("xb") as stream:
        keys = {key: job.file.metadata.stored(key) for key in job.file.metadata if not key.startswith("split.")}
        gguf_writer.write(stream, keys, [])
    package = Package(
        folder=job.folder,
        name=name,
        architecture=job.decoder.architecture,
        hyperparameters=job.decoder.sizes,
        source_file=job.file.path.name,
        source_sha256=_sha256(gguf.part_paths(job.file)),
        converter=f"edgeinfer {__version__}",
        mode=job.quant,
        tensors=job.tensors,
        variants=made,
        files=_described(job.folder, beside),
        measured=job.measures.summary(),
    )
    (job.folder / MANIFEST).write_text(package.json(), encoding="utf-8")
    return package


def _dynamic(job: _Job) -> None:
    graph, data = (job.folder / name for name in _DYNAMIC)
    with DataFile(data) as stored:
        weights = Weights(job.decoder, job.source, stored, job.quant, job.measures)
        model = variants.dynamic(plan(job.decoder, job.source.tensors), job.decoder, weights)
        ir.save(model, graph)
    job.tensors |= weights.tensors


def _described(folder: Path, names: Iterable[str]) -> dict[str, File]:
    return {name: File(_sha256([folder / name]), (folder / name).stat().st_size) for name in names}


def _sha256(paths: Iterable[Path]) -> str:
    """Of the contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
