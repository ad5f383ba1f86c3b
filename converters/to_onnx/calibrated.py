"""Packages whose products take integers in ranges that are known beforehand: the model is exported with its weights
rounded, reads a text, once for what reaches too far and once for ranges, and is exported again with what was found.
Owns the order of these; who reads is handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.catalog.store import Progress, Quiet
from edgeinfer.converters.output import workspace
from edgeinfer.converters.to_onnx.activations import Activations
from edgeinfer.converters.to_onnx.export import write_package
from edgeinfer.converters.to_onnx.folder import check_target
from edgeinfer.converters.to_onnx.mixture import Mixture
from edgeinfer.converters.to_onnx.opening import Model, opened
from edgeinfer.converters.to_onnx.options import Options
from edgeinfer.converters.to_onnx.smoothing import Smoother
from edgeinfer.errors import UsageError
from edgeinfer.onnx.package import Calibration, Package

__all__ = ["Open", "Reader", "export_calibrated", "write_calibrated"]

_N_CTX = 512
"""Of the graphs that read: as long as the windows of a text are."""


class Reader(Protocol):
    """A package that reads a text: `edgeinfer.calibrate.Watcher`."""

    @property
    def calibration(self) -> Calibration: ...

    def read(self, seen: Callable[[str, npt.NDArray[np.float32]], None]) -> None:
        """Tell ``seen`` of all values, by name."""
        ...


Open = Callable[[Path, Sequence[str]], AbstractContextManager[Reader]]
"""Opens the package in a folder to watch values of these names."""


def export_calibrated(
    path: str | Path,
    folder: str | Path,
    reader: Open,
    options: Options,
    progress: Progress | None = None,
    reference: str | None = None,
) -> Package:
    """As `export`, with integers for what products take and give. Raises what `opened` and `write_calibrated` do."""
    _check(Path(folder), options)
    with opened(Path(path), reference, progress) as model:
        return write_calibrated(model, Path(folder), reader, options, progress)


def write_calibrated(
    model: Model, folder: Path, reader: Open, options: Options, progress: Progress | None = None
) -> Package:
    """As `write_package`, with integers for what products take and give. What reads the text is a package whose weights
    have 8 bits, as ranges hardly depend on theirs. Raises what `write_package` and the reader do; nothing is written
    under the folder's name before all is known. On the disk: two packages for a while."""
    activations = _check(folder, options)
    shown = progress or Quiet()
    first = Options(
        mixture=Mixture("int8-static"),
        variant=options.variant,
        activations=activations,
        n_ctx=options.n_ctx,
        most_ctx=_N_CTX,
    )
    with workspace(folder, "calibrating") as place:
        whole = place / "whole"
        write_package(model, whole, first, shown)
        if (
            options.mixture.quant != "int4-static"
        ):  # rounding with feedback knows weights by what they multiply undivided
            _divide(activations, Smoother(model.decoder, model.source), lambda names: reader(whole, names))
        with reader(whole, activations.names) as reading:
            reading.read(activations.see)
            calibration = reading.calibration
    return write_package(replace(model, notes=()), folder, replace(options, calibration=calibration), shown)


def _check(folder: Path, options: Options) -> Activations:
    options.check()
    if options.activations is None:
        raise UsageError(f"{options.mixture.quant} asks for no text; export makes it without")
    check_target(folder, options.force)
    return options.activations


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
