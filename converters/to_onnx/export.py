"""The front door: a GGUF model becomes the folder of an ONNX package, whole or not at all. Owns the order of things;
knows no tensor's layout and no operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from edgeinfer import __version__, gguf
from edgeinfer.converters.architectures import describe
from edgeinfer.converters.architectures.decoder import check_tensors, with_factors
from edgeinfer.converters.sources import GGUFSource
from edgeinfer.converters.to_onnx.folder import new_folder
from edgeinfer.converters.to_onnx.genai import write_genai
from edgeinfer.converters.to_onnx.graph_files import Job, described, sha256, write_dynamic, write_static
from edgeinfer.converters.to_onnx.requantize import BLOCKS, Block, Quant, check_quant
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.converters.to_onnx.space import package_bytes
from edgeinfer.errors import UsageError
from edgeinfer.gguf import writer as gguf_writer
from edgeinfer.onnx.package import MANIFEST, VOCABULARY, Package, Variant

__all__ = ["NPU_CTX", "VARIANTS", "VariantName", "export"]

VariantName = Literal["cpu", "npu", "cuda"]
VARIANTS: tuple[VariantName, ...] = ("cpu", "npu", "cuda")
NPU_CTX = 2048


class Progress(Protocol):
    def update(self, done_bytes: int, total_bytes: int) -> None: ...


class _Silent:
    def update(self, done_bytes: int, total_bytes: int) -> None:
        pass


def export(
    path: str | Path,
    folder: str | Path,
    *,
    variant: Sequence[VariantName] = ("cpu",),
    quant: Quant = "keep",
    block: Block = 32,
    rounding: Rounding | None = None,
    name: str | None = None,
    n_ctx: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Package:
    """Convert a GGUF model into a new folder, and answer what was made.

    Everything that can be known beforehand is checked before anything is written: the file's structure, its
    architecture, every tensor's name, shape and type, room on the disk. Memory: one piece of a tensor, some ten MB,
    beside the header; of variant ``npu``, whose matrices are transposed, also the pages of the one that is written.
    ``block`` weights share a scale where ``quant`` is int4, which ``rounding`` rounds to (None: to the nearest).
    ``n_ctx`` is the context of that variant's graphs (None: `NPU_CTX`, or the model's where that is less). ``force``
    replaces an older package.

    Raises what `gguf.read` does; `UnsupportedModel` for an architecture that has no ONNX form, `UnsupportedQuant` for
    tensors that cannot be kept, `FormatError` naming every tensor that is missing or unexpected, `UsageError` for a
    folder that is there already, a disk without room or a context beyond the model's.
    """
    if block not in BLOCKS:
        raise UsageError(f"blocks of {block} weights are wanted; there are {', '.join(map(str, BLOCKS))}")
    file = gguf.read(path)
    decoder = describe(file)
    shown = progress or _Silent()
    names = tuple(dict.fromkeys(variant))
    with GGUFSource(file) as source:
        check_tensors(decoder, source.tensors, source.label)
        decoder = with_factors(decoder, source)
        check_quant(source, quant)
        needed = package_bytes(source, quant, decoder, names)
        n_graphs = bool({"cpu", "cuda"} & {*names}) + ("npu" in names)
        total = n_graphs * sum(tensor.n_bytes for tensor in file.tensors.values())
        n_ctx = _context(decoder.sizes.n_ctx_train, n_ctx)
        with new_folder(Path(folder), needed, force) as made:
            job = Job(file, decoder, source, quant, made, _counter(shown, total), rounding or Rounding(), block)
            package = _package(job, names, name or file.path.stem, n_ctx)
    return replace(package, folder=Path(folder))


def _context(n_ctx_train: int, n_ctx: int | None) -> int:
    if n_ctx is not None and not 1 <= n_ctx <= n_ctx_train:
        raise UsageError(f"a context of {n_ctx} is wanted, but the model was trained for {n_ctx_train}")
    return n_ctx or min(NPU_CTX, n_ctx_train)


def _counter(progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done = min(total, done + n_bytes)
        progress.update(done, total)

    return advance


def _package(job: Job, names: Sequence[VariantName], name: str, n_ctx: int) -> Package:
    made: dict[str, Variant] = {}
    beside = [VOCABULARY]
    if {"cpu", "cuda"} & {*names}:
        dynamic = write_dynamic(job)
        made |= {which: dynamic for which in ("cpu", "cuda") if which in names}
        beside += write_genai(job.file, job.decoder, job.folder, dynamic.model)
    if "npu" in names:
        made["npu"] = write_static(job, n_ctx)
    with (job.folder / VOCABULARY).open("xb") as stream:
        keys = {key: job.file.metadata.stored(key) for key in job.file.metadata if not key.startswith("split.")}
        gguf_writer.write(stream, keys, [])
    package = Package(
        folder=job.folder,
        name=name,
        architecture=job.decoder.architecture,
        hyperparameters=job.decoder.sizes,
        source_file=job.file.path.name,
        source_sha256=sha256(gguf.part_paths(job.file)),
        converter=f"edgeinfer {__version__}",
        mode=job.quant,
        tensors=job.tensors,
        variants=made,
        files=described(job.folder, beside),
        measured=job.measured,
    )
    (job.folder / MANIFEST).write_text(package.json(), encoding="utf-8")
    return package
