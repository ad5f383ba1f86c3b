"""The front door: a GGUF model or a checkpoint becomes the folder of an ONNX package, whole or not at all. Owns the
order of things; knows no tensor's layout and no operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgeinfer import __version__
from edgeinfer.catalog.store import Progress, Quiet
from edgeinfer.converters.architectures import describe
from edgeinfer.converters.architectures.decoder import Decoder, with_factors
from edgeinfer.converters.sources import TensorSource, ViewSource
from edgeinfer.converters.to_onnx.floats import FLOAT_QUANTS, FloatSource
from edgeinfer.converters.to_onnx.folder import new_folder
from edgeinfer.converters.to_onnx.genai import write_genai
from edgeinfer.converters.to_onnx.graph_files import Job, described, write_dynamic, write_static
from edgeinfer.converters.to_onnx.opening import Model, opened
from edgeinfer.converters.to_onnx.requantize import BLOCKS, Block, Quant, check_quant
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.converters.to_onnx.space import package_bytes
from edgeinfer.errors import UnsupportedModel, UsageError
from edgeinfer.gguf import writer as gguf_writer
from edgeinfer.onnx.package import MANIFEST, VOCABULARY, Package, Variant

__all__ = ["NPU_CTX", "VARIANTS", "VariantName", "export"]

VariantName = Literal["cpu", "npu", "cuda"]
VARIANTS: tuple[VariantName, ...] = ("cpu", "npu", "cuda")
NPU_CTX = 2048


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
    reference: str | None = None,
) -> Package:
    """Convert a GGUF model, or the checkpoint in a folder, into a new folder, and answer what was made.

    Everything that can be known beforehand is checked before anything is written: the file's structure, its
    architecture, every tensor's name, shape and type, room on the disk. Memory: one piece of a tensor, some ten MB,
    beside the header; of variant ``npu``, whose matrices are transposed, also the pages of the one that is written.
    ``block`` weights share a scale where ``quant`` is int4, which ``rounding`` rounds to (None: to the nearest).
    ``n_ctx`` is the context of that variant's graphs (None: `NPU_CTX`, or the model's where that is less). ``force``
    replaces an older package. ``reference``: what to call a checkpoint, such as hf:owner/repo.

    Raises what `gguf.read` and `open_model` do; `UnsupportedModel` for an architecture that has no ONNX form or none
    for that variant, `UnsupportedQuant` for tensors that cannot be kept, `FormatError` naming every tensor that is
    missing or unexpected, `UsageError` for a folder that is there already, a disk without room or a context beyond the
    model's.
    """
    if block not in BLOCKS:
        raise UsageError(f"blocks of {block} weights are wanted; there are {', '.join(map(str, BLOCKS))}")
    shown = progress or Quiet()
    names = tuple(dict.fromkeys(variant))
    with opened(Path(path), reference, shown) as model:
        for note in model.notes:
            shown.note(note)
        decoder = describe(model.file)
        decoder.check(model.source.tensors, model.source.label)
        decoder = with_factors(decoder, model.source)
        source = _seen(model.source, decoder, quant)
        check_quant(source, quant)
        _check_variants(decoder, names, model)
        needed = package_bytes(source, quant, decoder, names)
        n_graphs = bool({"cpu", "cuda"} & {*names}) + ("npu" in names)
        total = n_graphs * sum(tensor.n_rows * tensor.row_bytes for tensor in source.tensors.values())
        n_ctx = _context(decoder.sizes.n_ctx_train, n_ctx)
        with new_folder(Path(folder), needed, force) as made:
            job = Job(model.file, decoder, source, quant, made, _counter(shown, total), rounding or Rounding(), block)
            package = _package(job, names, name or model.name, n_ctx, model)
    return replace(package, folder=Path(folder))


def _seen(source: TensorSource, decoder: Decoder, quant: Quant) -> TensorSource:
    """The source as the graph wants it."""
    if decoder.views:
        source = ViewSource(source, decoder.views)
    return FloatSource(source, FLOAT_QUANTS[quant]) if quant in FLOAT_QUANTS else source


def _check_variants(decoder: Decoder, names: Sequence[VariantName], model: Model) -> None:
    if "npu" not in names:
        return
    reasons = {
        "it is an encoder": decoder.bidirectional is not None,
        "its experts are chosen as it runs": decoder.experts is not None,
        f"heads of {decoder.sizes.head_dim} with two ropes do not fit it": decoder.space.padded
        and decoder.rope_local is not None,
    }
    for reason, true in reasons.items():
        if true:
            raise UnsupportedModel(f"{model.file.path}: variant npu has graphs of fixed shapes, and {reason}")


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


def _package(job: Job, names: Sequence[VariantName], name: str, n_ctx: int, model: Model) -> Package:
    made: dict[str, Variant] = {}
    beside = [VOCABULARY]
    if {"cpu", "cuda"} & {*names}:
        dynamic = write_dynamic(job)
        made |= {which: dynamic for which in ("cpu", "cuda") if which in names}
        beside += write_genai(job.file, job.decoder, job.folder, dynamic.model)
    if "npu" in names:
        made["npu"] = write_static(job, n_ctx)
    if isinstance(job.source, FloatSource):
        job.measured |= job.source.measured
    with (job.folder / VOCABULARY).open("xb") as stream:
        keys = {key: job.file.metadata.stored(key) for key in job.file.metadata if not key.startswith("split.")}
        gguf_writer.write(stream, keys, [])
    package = Package(
        folder=job.folder,
        name=name,
        architecture=job.decoder.architecture,
        hyperparameters=job.decoder.stored_sizes(),
        source_file=model.file_name,
        source_sha256=model.sha256(),
        converter=f"edgeinfer {__version__}",
        mode=job.quant,
        tensors=job.tensors,
        variants=made,
        files=described(job.folder, beside),
        measured=job.measured,
    )
    (job.folder / MANIFEST).write_text(package.json(), encoding="utf-8")
    return package
