"""``int8-static`` and ``int4-static`` of ``edgeinfer convert --to onnx`` and ``quantize``: products of integers, in
ranges found on a text, as NPUs have them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.calibrating import Calibration
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.calibrate import Watcher
    from edgeinfer.catalog import Progress
    from edgeinfer.converters.to_onnx.calibrated import Open
    from edgeinfer.converters.to_onnx.options import Options
    from edgeinfer.converters.to_onnx.rounding import Rounding
    from edgeinfer.onnx.package import Package

__all__ = ["Static", "activation_lines"]

_DEFAULT_BITS = 16
_N_TOKENS = 4096
"""Ranges are found with fewer than what weights are worth."""
_FEW_TOKENS = 2048


class Static:
    """How packages of `STATIC_MODES` are made. Raises `UsageError` for flags that do not go with it."""

    def __init__(self, quant: str, calibration: Calibration, method: str, bits: int | None) -> None:
        from edgeinfer.converters.to_onnx.activations import Activations

        if calibration.text is None:
            raise UsageError(f"{quant} finds the ranges of what products take on a text: give --calibrate FILE")
        if calibration.save:
            raise UsageError("--save-imatrix is for GGUF")
        if quant == "int8-static" and method != "auto":
            raise UsageError("--method is for weights of 4 bits")
        self._quant: Any = quant
        self._calibration = calibration
        self._method: Any = method
        self._sample = calibration.sample(_N_TOKENS)
        self._activations = Activations(bits or _DEFAULT_BITS)  # type: ignore[arg-type]

    def rounding(self, model: Path, out: Path, progress: Progress) -> AbstractContextManager[Rounding]:
        """How to round weights: those of 4 bits by what the text says of them, unless another method was asked for."""
        from edgeinfer.converters.to_onnx.rounding import Rounding

        if self._quant == "int8-static":
            return contextlib.nullcontext(Rounding())
        if self._method in ("rtn", "search"):
            return contextlib.nullcontext(Rounding(self._method))
        return self._calibration.rounding(self._method, model, out, progress)

    def export(
        self, path: Path, folder: Path, options: Options, progress: Any, reference: str | None = None
    ) -> Package:
        """As `export_calibrated`, and a note where the text was short. ``progress``: of `download_progress`."""
        from edgeinfer.converters.to_onnx.calibrated import export_calibrated

        reader, options = self._asked(options, progress)
        return self._told(export_calibrated(path, folder, reader, options, progress, reference))

    def quantize(self, package: Path, out: Path, options: Options, progress: Any) -> Package:
        """As `quantize_package`, otherwise as `export`."""
        from edgeinfer.converters.to_onnx.requantized import quantize_package

        reader, options = self._asked(options, progress)
        return self._told(quantize_package(package, out, options, progress, reader))

    def _asked(self, options: Options, progress: Any) -> tuple[Open, Options]:
        return functools.partial(self._reader, progress), replace(options, activations=self._activations)

    def _told(self, made: Package) -> Package:
        tokens = made.calibration.tokens if made.calibration else 0
        if tokens < min(_FEW_TOKENS, self._sample.n_tokens):
            click.echo(
                f"edgeinfer: note: {self._sample.name} has only {tokens} tokens to find ranges with; "
                f"with {_FEW_TOKENS} or more another text is less likely to leave them",
                err=True,
            )
        return made

    @contextlib.contextmanager
    def _reader(self, progress: Any, folder: Path, names: Sequence[str]) -> Iterator[Watcher]:
        from edgeinfer.calibrate import Watcher
        from edgeinfer.cli.progress import bar

        progress.note(f"reading {self._sample.name}")
        progress.close()  # a terminal shows one bar at a time
        with bar() as told, Watcher(folder, self._sample, names) as watcher:
            watcher.told = functools.partial(told, f"reading {self._sample.name}")
            yield watcher


def activation_lines(made: Package) -> list[str]:
    """What is said of integers in a package; nothing of one that has none."""
    measured, read = made.measured, made.calibration
    if "activation_bits" not in measured or read is None:
        return []
    middle, worst = (100 * measured[name] for name in ("activation_error", "most_activation_error"))
    n_short, n = measured["activation_values_8"], measured["activation_values"]
    kinds = f"{n_short:.0f} of 8 bits and {n - n_short:.0f} of 16" if n_short else f"{n:.0f} of 16 bits"
    lines = [
        f"products take and give {kinds}, in ranges found on {read.tokens} tokens of {read.text}: this costs "
        f"{middle:.2g} % of a typical activation and {worst:.2g} % of the worst (root mean square); norms, softmax and "
        "rope stay floats"
    ]
    if measured["clipped"]:
        lines.append(
            f"{100 * measured['clipped']:.2g} % of their values were outside of the ranges and are clipped, at most "
            f"{100 * measured['most_clipped']:.2g} % of one activation's"
        )
    else:
        lines.append("none of their values was outside of the ranges: nothing was clipped")
    return lines
