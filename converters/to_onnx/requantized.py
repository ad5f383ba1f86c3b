"""A package in other forms: what `edgeinfer quantize` makes of an ONNX package, with the variants that it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgeinfer.catalog.store import Progress
from edgeinfer.converters.sources import SourceTensor
from edgeinfer.converters.to_onnx.calibrated import Open, write_calibrated
from edgeinfer.converters.to_onnx.export import write_package
from edgeinfer.converters.to_onnx.forms import OWN, Form
from edgeinfer.converters.to_onnx.mixture import FLOAT_QUANTS, Mixture
from edgeinfer.converters.to_onnx.opening import Model, opened
from edgeinfer.converters.to_onnx.options import VARIANTS, Options, VariantName
from edgeinfer.converters.to_onnx.requantize import BLOCKS
from edgeinfer.errors import UsageError
from edgeinfer.onnx.package import STATIC_MODES, Package

__all__ = ["quantize_package"]

_LITTLE = 1e-3
_SAME_WEIGHTS = ("keep", "int8", "int8-dynamic")
"""Modes that say how inputs are taken, beside how weights are kept."""


def quantize_package(
    folder: Path, out: Path, options: Options, progress: Progress | None = None, reader: Open | None = None
) -> Package:
    """Write the package in ``folder`` to ``out`` with its matrices in other forms, and answer what was made. Its
    variants stay, whatever ``options`` say, and so does the context of variant ``npu`` where they say nothing; with
    integers for what products take, which ``reader`` finds the ranges of, that variant is the only one.

    The result is what `export` makes of the source where the package has its floats. Weights that were rounded before
    are rounded again, which ``progress`` is told. Raises as `opened`, `export` and `write_calibrated`; `UsageError`
    where nothing would change.
    """
    if out.exists() and out.samefile(folder):
        raise UsageError(f"{out} is the package to be read; give another name")
    with opened(folder, None, progress) as model:
        package = model.package
        if package is None:
            raise UsageError(f"{folder} is no ONNX package")
        options.mixture.check(model.source)
        _check_change(model, package, options.mixture)
        options, notes = _with_variants(package, options)
        model = replace(model, notes=(*model.notes, *_notes(package), *notes))
        if options.mixture.quant not in STATIC_MODES:
            return write_package(model, out, options, progress)
        if reader is None:
            raise UsageError(f"{options.mixture.quant} finds the ranges of what products take on a text; give one")
        return write_calibrated(model, out, reader, options, progress)


def _with_variants(package: Package, options: Options) -> tuple[Options, tuple[str, ...]]:
    """The options for the variants that the result has, and what people should know of these."""
    known = package.variants.get("npu")
    variants: list[VariantName] = [name for name in VARIANTS if name in package.variants]
    notes: tuple[str, ...] = ()
    if options.mixture.quant in STATIC_MODES:
        left = [name for name in variants if name != "npu"]
        if left:
            notes += (f"{options.mixture.quant} is for NPUs: of variant {' and '.join(left)} nothing is made",)
        variants = ["npu"]
    elif options.n_ctx is not None and known is None:
        raise UsageError(f"{package.folder} has no variant npu, whose graphs alone have a context built in")
    n_ctx = options.n_ctx or (known.n_ctx if known else None)
    return replace(options, variant=variants, n_ctx=n_ctx), notes


def _check_change(model: Model, package: Package, mixture: Mixture) -> None:
    modes = {package.mode, mixture.quant}
    if len(modes) > 1 and modes <= {*_SAME_WEIGHTS}:
        return
    tensors = {name: tensor for name, tensor in model.source.tensors.items() if name in package.tensors}
    matrices = {name: tensor for name, tensor in tensors.items() if len(tensor.shape) > 1}
    if all(_made(mixture, name, tensor) == _stored(package, name, tensor) for name, tensor in matrices.items()):
        unfit = any(tensor.n_cols % BLOCKS[0] for tensor in matrices.values())
        why = f" (rows that are no whole blocks of {BLOCKS[0]} stay floats)" if unfit else ""
        raise UsageError(
            f"{package.folder} is {package.mode}, and every matrix has the form already that it would get{why}; "
            "nothing was written"
        )


def _made(mixture: Mixture, name: str, tensor: SourceTensor) -> Form | str:
    """The form or the type of floats that a matrix gets."""
    kind = FLOAT_QUANTS.get(mixture.quant_of(name, tensor))
    return kind or mixture.form(name, tensor) or tensor.type


def _stored(package: Package, name: str, tensor: SourceTensor) -> Form | str:
    """What it has. The table of embeddings may be read from elsewhere, in its source's type."""
    if tensor.type in OWN:
        return OWN[tensor.type]
    known = package.tensors[name]
    if known.form == "float":
        return tensor.type
    bits: Literal[4, 8] = 8 if known.form == "nbits8" else 4
    return Form(bits, known.block, known.correction, zero_points=known.zero_points)


def _notes(package: Package) -> tuple[str, ...]:
    """What was lost before cannot come back. Of halves that is too little to speak of."""
    n_blocks = sum(form.form != "float" for form in package.tensors.values())
    error = package.measured.get("relative_error")
    if not n_blocks and (error is None or error < _LITTLE):
        return ()
    cost = f", which cost {100 * error:.2g} % of its weights" if error is not None else ""
    what = f"is {package.mode} already" if package.mode != "keep" else f"has {n_blocks} matrices in blocks already"
    return (f"{package.folder.name} {what}{cost}: errors add up; start from {package.source_file} if you can",)
