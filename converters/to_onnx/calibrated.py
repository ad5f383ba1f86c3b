"""Packages whose products take integers in ranges that are known beforehand: the model is exported with its weights
rounded, reads a text, once for what reaches too far and once for ranges, and is exported again with what was found.
Owns the order of these; who reads is handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.catalog.store import Progress, Quiet
from edgeinfer.converters.output import workspace
from edgeinfer.converters.to_onnx.activations import Activations
from edgeinfer.converters.to_onnx.export import VariantName, check_static, export
from edgeinfer.converters.to_onnx.folder import check_target
from edgeinfer.converters.to_onnx.opening import opened
from edgeinfer.converters.to_onnx.requantize import Quant
from edgeinfer.converters.to_onnx.smoothing import Smoother
from edgeinfer.onnx.package import Calibration, Package

__all__ = ["Reader", "export_calibrated"]

_N_CTX = 512
"""Of the graphs that read: as long as the windows of a text are."""


class Reader(Protocol):
    """A package that reads a text: `edgeinfer.calibrate.Watcher`."""

    @property
    def calibration(self) -> Calibration: ...

    def read(self, seen: Callable[[str, npt.NDArray[np.float32]], None]) -> None:
        """Tell ``seen`` of all values, by name."""
        ...


def export_calibrated(
    path: str | Path,
    folder: str | Path,
    reader: Callable[[Path, Sequence[str]], AbstractContextManager[Reader]],
    activations: Activations,
    *,
    variant: Sequence[VariantName] = ("npu",),
    quant: Quant = "int8-static",
    n_ctx: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Package:
    """As `export`, whose ``options`` it takes, with integers for what products take and give. ``reader`` opens a
    package to watch values of these names: one whose weights have 8 bits, as ranges hardly depend on theirs. Raises
    what `export` and the reader do; nothing is written under the folder's name before all is known. On the disk: two
    packages for a while."""
    shown = progress or Quiet()
    check_static(quant, variant, activations)
    target = Path(folder)
    check_target(target, force)
    with workspace(target, "calibrating") as place:
        whole = place / "whole"
        reference = options.get("reference")
        export(
            path,
            whole,
            variant=variant,
            quant="int8-static",
            activations=activations,
            n_ctx=n_ctx,
            most_ctx=_N_CTX,
            progress=shown,
            reference=reference,
        )
        if quant != "int4-static":  # rounding with feedback knows weights by what they multiply undivided
            with opened(Path(path), reference, shown) as model:
                _divide(activations, Smoother(model.decoder, model.source), lambda names: reader(whole, names))
        with reader(whole, activations.names) as reading:
            reading.read(activations.see)
            calibration = reading.calibration
    return export(
        path,
        folder,
        variant=variant,
        quant=quant,
        activations=activations,
        calibration=calibration,
        n_ctx=n_ctx,
        force=force,
        progress=shown,
        **options,
    )


def _divide(
    activations: Activations,
    smoother: Smoother,
    reader: Callable[[Sequence[str]], AbstractContextManager[Reader]],
) -> None:
    names = [name for name in activations.names if name in smoother.folds]
    if not names:
        return
    with reader(names) as reading:
        reading.read(smoother.see)
    activations.divide(smoother.factors(), smoother.folds)
