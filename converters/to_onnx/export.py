"""The front door: a GGUF model or a checkpoint becomes the folder of an ONNX package, whole or not at all. Owns the
order of things; knows no tensor's layout and no operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgeinfer import __version__
from edgeinfer.catalog.store import Progress, Quiet
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.sources import TensorSource
from edgeinfer.converters.to_onnx.floats import FloatSource
from edgeinfer.converters.to_onnx.folder import new_folder
from edgeinfer.converters.to_onnx.forms import OWN
from edgeinfer.converters.to_onnx.genai import write_genai
from edgeinfer.converters.to_onnx.graph_files import Job, described, write_dynamic, write_static
from edgeinfer.converters.to_onnx.mixture import Mixture
from edgeinfer.converters.to_onnx.opening import Model, opened
from edgeinfer.converters.to_onnx.options import Options, VariantName
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.converters.to_onnx.smoothing import SmoothedSource
from edgeinfer.converters.to_onnx.space import package_bytes
from edgeinfer.errors import UnsupportedModel, UnsupportedQuant, UsageError
from edgeinfer.gguf import writer as gguf_writer
from edgeinfer.onnx.package import MANIFEST, VOCABULARY, Origin, Package, TensorForm, Variant

__all__ = ["export", "write_package"]

_NPU_CTX = 2048


def export(
    path: str | Path,
    folder: str | Path,
    options: Options,
    progress: Progress | None = None,
    reference: str | None = None,
) -> Package:
    """Convert a GGUF model, the checkpoint in a folder, or a package, into a new folder, and answer what was made.

    Everything that can be known beforehand is checked before anything is written: the file's structure, its
    architecture, every tensor's name, shape and type, room on the disk. Memory: one piece of a tensor, some ten MB,
    beside the header; of variant ``npu``, whose matrices are transposed, also the pages of the one that is written.
    ``reference``: what to call a checkpoint, such as hf:owner/repo.

    Raises what `opened` does; `UnsupportedModel` for an architecture that has no ONNX form or none for that variant,
    `UnsupportedQuant` for tensors that cannot be kept, `UsageError` for a folder that is there already, a disk without
    room, a context beyond the model's or an override that matches nothing.
    """
    with opened(Path(path), reference, progress) as model:
        return write_package(model, Path(folder), options, progress)


def write_package(model: Model, folder: Path, options: Options, progress: Progress | None = None) -> Package:
    """`export` of an open model."""
    shown = progress or Quiet()
    names, mixture, activations = options.variants, options.mixture, options.activations
    options.check()
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
    n_ctx = _context(decoder.sizes.n_ctx_train, options)
    with new_folder(folder, needed, options.force) as made:
        job = Job(model.file, decoder, source, mixture, made, _counter(shown, total), options.rounding or Rounding())
        job.activations = activations
        package = _package(job, options, n_ctx, model)
    return replace(package, folder=folder)


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


def _context(n_ctx_train: int, options: Options) -> int:
    if options.n_ctx is not None and not 1 <= options.n_ctx <= n_ctx_train:
        raise UsageError(f"a context of {options.n_ctx} is wanted, but the model was trained for {n_ctx_train}")
    n_ctx = options.n_ctx or min(_NPU_CTX, n_ctx_train)
    return min(n_ctx, options.most_ctx or n_ctx)


def _counter(progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done = min(total, done + n_bytes)
        progress.update(done, total)

    return advance


def _package(job: Job, options: Options, n_ctx: int, model: Model) -> Package:
    names, made = options.variants, dict[str, Variant]()
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
        name=options.name or model.name,
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
        calibration=options.calibration,
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
