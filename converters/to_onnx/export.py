"""The front door: a GGUF model or a checkpoint becomes the folder of an ONNX package, whole or not at all. Owns the
order of things; knows no tensor's layout and no operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgeinfer import __version__
from edgeinfer.catalog.store import Progress, Quiet
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.sources import TensorSource
from edgeinfer.converters.to_onnx.activations import Activations
from edgeinfer.converters.to_onnx.floats import FloatSource
from edgeinfer.converters.to_onnx.folder import new_folder
from edgeinfer.converters.to_onnx.forms import OWN
from edgeinfer.converters.to_onnx.genai import write_genai
from edgeinfer.converters.to_onnx.graph_files import Job, described, write_dynamic, write_static
from edgeinfer.converters.to_onnx.mixture import FormOverride, Mixture
from edgeinfer.converters.to_onnx.opening import Model, opened
from edgeinfer.converters.to_onnx.requantize import BLOCKS, Block, Quant
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.converters.to_onnx.smoothing import SmoothedSource
from edgeinfer.converters.to_onnx.space import package_bytes
from edgeinfer.errors import UnsupportedModel, UnsupportedQuant, UsageError
from edgeinfer.gguf import writer as gguf_writer
from edgeinfer.onnx.package import MANIFEST, STATIC_MODES, VOCABULARY, Calibration, Origin, Package, TensorForm, Variant

__all__ = ["NPU_CTX", "VARIANTS", "VariantName", "check_static", "export", "write_package"]

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
    zero_points: bool = False,
    overrides: Sequence[FormOverride] = (),
    rounding: Rounding | None = None,
    activations: Activations | None = None,
    calibration: Calibration | None = None,
    name: str | None = None,
    n_ctx: int | None = None,
    most_ctx: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
    reference: str | None = None,
) -> Package:
    """Convert a GGUF model, the checkpoint in a folder, or a package, into a new folder, and answer what was made.

    Everything that can be known beforehand is checked before anything is written: the file's structure, its
    architecture, every tensor's name, shape and type, room on the disk. Memory: one piece of a tensor, some ten MB,
    beside the header; of variant ``npu``, whose matrices are transposed, also the pages of the one that is written.
    ``block`` weights share a scale, and a zero point with ``zero_points``, where ``quant`` is int4, which ``rounding``
    rounds to (None: to the nearest).
    ``overrides``: other quantizations for matrices whose names match.
    ``n_ctx`` is the context of that variant's graphs (None: `NPU_CTX`, or the model's where that is less), though it
    is ``most_ctx`` at most. ``activations``: what products of that variant take and give, of the quants that keep these
    as integers, and ``calibration`` where that is known from (`calibrated.export_calibrated`). ``force`` replaces an
    older package. ``reference``: what to call a checkpoint, such as hf:owner/repo.

    Raises what `opened` does; `UnsupportedModel` for an architecture that has no ONNX form or none for that variant,
    `UnsupportedQuant` for tensors that cannot be kept, `UsageError` for a folder that is there already, a disk without
    room, a context beyond the model's or an override that matches nothing.
    """
    if block not in BLOCKS:
        raise UsageError(f"blocks of {block} weights are wanted; there are {', '.join(map(str, BLOCKS))}")
    mixture = Mixture(quant, block, tuple(overrides), zero_points)
    with opened(Path(path), reference, progress) as model:
        return write_package(
            *(model, Path(folder), mixture, variant),
            rounding=rounding,
            activations=activations,
            calibration=calibration,
            name=name,
            n_ctx=n_ctx,
            most_ctx=most_ctx,
            force=force,
            progress=progress,
        )


def write_package(
    model: Model,
    folder: Path,
    mixture: Mixture,
    variant: Sequence[VariantName],
    *,
    rounding: Rounding | None = None,
    activations: Activations | None = None,
    calibration: Calibration | None = None,
    name: str | None = None,
    n_ctx: int | None = None,
    most_ctx: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Package:
    """`export` of an open model."""
    shown = progress or Quiet()
    names = tuple(dict.fromkeys(variant))
    check_static(mixture.quant, names, activations)
    check_zero_points(mixture, names, rounding)
    for note in model.notes:
        shown.note(note)
    decoder, source = model.decoder, model.source
    mixture.check(source)
    kinds = mixture.float_types(source.tensors)
    source = FloatSource(source, kinds) if kinds else source
    if activations is not None and activations.factors:
        source = SmoothedSource(source, decoder, activations.factors)
    _check_variants(decoder, names, model)
    if "npu" in names:
        _check_kept(source, mixture)
    needed = package_bytes(source, mixture, decoder, names)
    n_graphs = bool({"cpu", "cuda"} & {*names}) + ("npu" in names)
    total = n_graphs * sum(tensor.n_rows * tensor.row_bytes for tensor in source.tensors.values())
    n_ctx = _context(decoder.sizes.n_ctx_train, n_ctx)
    n_ctx = min(n_ctx, most_ctx or n_ctx)
    with new_folder(folder, needed, force) as made:
        job = Job(model.file, decoder, source, mixture, made, _counter(shown, total), rounding or Rounding())
        job.activations = activations
        package = _package(job, names, name or model.name, n_ctx, model, calibration)
    return replace(package, folder=folder)


def check_static(quant: Quant, names: Sequence[str], activations: Activations | None) -> None:
    """Raise `UsageError` for integers where no graph has them, or none that anything is known of."""
    if quant not in STATIC_MODES:
        if activations is not None:
            raise UsageError(f"{quant} leaves what products take as it is; for integers: {', '.join(STATIC_MODES)}")
        return
    others = [each for each in names if each != "npu"]
    if others:
        raise UsageError(
            f"{quant} is for --variant npu, whose products take integers in ranges found beforehand, and not for "
            f"{' and '.join(others)}: int8 or int8-dynamic finds them as it runs"
        )
    if activations is None:
        raise UsageError(f"{quant} finds the ranges of what products take on a text; give one with --calibrate")


def check_zero_points(mixture: Mixture, names: Sequence[str], rounding: Rounding | None) -> None:
    """Raise `UsageError` for zero points that no graph of these has, and for a method that looks for none."""
    if rounding is not None and rounding.method == "hqq" and not mixture.zero_points:
        raise UsageError("method hqq looks for zero points; --zero-points has them, and --method search is without")
    if mixture.zero_points and "npu" in names:
        raise UsageError("zero points are for variants cpu and cuda: graphs of variant npu step around zero")


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


def _check_kept(source: TensorSource, mixture: Mixture) -> None:
    """Blocks of a package may have zero points though nobody asks for them."""
    for name, tensor in source.tensors.items():
        form = mixture.form(name, tensor) if len(tensor.shape) > 1 else None
        if form is not None and form.zero_points:
            raise UnsupportedQuant(f"{source.label}: {name} has zero points, which graphs of variant npu do not")


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


def _package(
    job: Job, names: Sequence[VariantName], name: str, n_ctx: int, model: Model, calibration: Calibration | None
) -> Package:
    made: dict[str, Variant] = {}
    beside = [VOCABULARY]
    if {"cpu", "cuda"} & {*names}:
        dynamic = write_dynamic(job)
        made |= {which: dynamic for which in ("cpu", "cuda") if which in names}
        beside += write_genai(job.file, job.decoder, job.folder, dynamic.model)
    if "npu" in names:
        made["npu"] = write_static(job, n_ctx)
    _measure(job, model.package)
    if job.activations is not None:
        job.measured |= job.activations.measured()
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
        mode=job.mixture.quant,
        tensors=_forms(job, model.package),
        variants=made,
        files=described(job.folder, beside),
        measured=job.measured,
        origin=_origin(model.package),
        calibration=calibration,
    )
    (job.folder / MANIFEST).write_text(package.json(), encoding="utf-8")
    return package


def _measure(job: Job, package: Package | None) -> None:
    """Errors are of what goes in; of a package that was rounded itself, its own is kept beside them."""
    if isinstance(job.source, FloatSource):
        floats = job.source.measured
        job.measured |= {f"float_{key}": floats[key] for key in floats} if "relative_error" in job.measured else floats
    if package is not None and "relative_error" in package.measured:
        job.measured["source_relative_error"] = package.measured["relative_error"]


def _forms(job: Job, package: Package | None) -> dict[str, TensorForm]:
    """Blocks of a package have no GGUF type but the one that they had in its source."""

    def named(name: str, form: TensorForm) -> TensorForm:
        known = package.tensors.get(name) if package else None
        own = form.type in OWN or len(job.source.tensors[name].shape) == 1
        return replace(form, type=known.type) if known and own else form

    return {name: named(name, form) for name, form in job.tensors.items()}


def _origin(package: Package | None) -> Origin | None:
    return (package.origin or Origin(package.source_file, package.source_sha256)) if package else None
