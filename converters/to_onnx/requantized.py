"""A package in other forms: what `edgeinfer quantize` makes of an ONNX package, with the variants that it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgeinfer.catalog.store import Progress
from edgeinfer.converters.sources import SourceTensor
from edgeinfer.converters.to_onnx.export import VARIANTS, write_package
from edgeinfer.converters.to_onnx.forms import OWN, Form
from edgeinfer.converters.to_onnx.mixture import FLOAT_QUANTS, Mixture
from edgeinfer.converters.to_onnx.opening import Model, opened
from edgeinfer.converters.to_onnx.requantize import BLOCKS, QUANTS
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.errors import UnsupportedQuant, UsageError
from edgeinfer.onnx.package import Package

__all__ = ["quantize_package"]

_LITTLE = 1e-3
_SAME_WEIGHTS = ("keep", "int8", "int8-dynamic")
"""Modes that say how inputs are taken, beside how weights are kept."""


def quantize_package(
    folder: Path,
    out: Path,
    mixture: Mixture,
    *,
    rounding: Rounding | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Package:
    """Write the package in ``folder`` to ``out`` with its matrices in other forms, and answer what was made.

    The result is what `export` makes of the source where the package has its floats. Weights that were rounded before
    are rounded again, which ``progress`` is told. Raises as `opened` and `export`; `UnsupportedQuant` for a package
    whose graphs were made for inputs of one text, `UsageError` where nothing would change.
    """
    if out.exists() and out.samefile(folder):
        raise UsageError(f"{out} is the package to be read; give another name")
    with opened(folder, None, progress) as model:
        package = model.package
        if package is None:
            raise UsageError(f"{folder} is no ONNX package")
        if package.mode not in QUANTS:
            raise UnsupportedQuant(
                f"{folder} is {package.mode}, which is more than its weights; start from the model that it was made "
                f"from, {package.source_file}"
            )
        mixture.check(model.source)
        _check_change(model, package, mixture)
        model = replace(model, notes=(*model.notes, *_notes(package)))
        variants = [name for name in VARIANTS if name in package.variants]
        n_ctx = package.variants["npu"].n_ctx if "npu" in package.variants else None
        return write_package(
            *(model, out, mixture, variants), rounding=rounding, n_ctx=n_ctx, force=force, progress=progress
        )


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
