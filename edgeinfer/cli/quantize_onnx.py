"""``edgeinfer quantize`` of an ONNX package."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.cli.calibrating import Calibration
from edgeinfer.cli.convert import need_converter, say_package, say_unknown
from edgeinfer.cli.convert_static import Static
from edgeinfer.cli.pulling import download_progress
from edgeinfer.errors import ModelNotFound, UsageError
from edgeinfer.onnx.package import MODES, STATIC_MODES
from edgeinfer.text.printable import printable

__all__ = ["Asked", "package_of", "quantize_onnx"]

_TYPES = tuple(mode for mode in MODES if mode != "keep")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the flags said. Of activations ``bits``, None where nothing was said."""

    quant: str
    tensor_types: tuple[str, ...]
    method: str
    block: int
    zero_points: bool
    calibration: Calibration
    bits: int | None
    n_ctx: int | None

    def check(self) -> None:
        """Raises `UsageError` for flags that do not go together."""
        static = self.quant in STATIC_MODES
        if self.quant not in _TYPES:
            raise UsageError(f"--type {self.quant} is not one of ONNX packages: {', '.join(_TYPES)}")
        if self.method == "importance":
            raise UsageError("--method importance is for GGUF models; packages have rtn, search, hqq and gptq")
        four_bits = self.quant == "int4" or any(each.lower().endswith("=int4") for each in self.tensor_types)
        if not four_bits and not static and (self.calibration.text or self.method != "auto"):
            raise UsageError(f"--calibrate and --method are for int4, {' and '.join(STATIC_MODES)}")
        if self.bits and not static:
            raise UsageError(f"--activations is for {' and '.join(STATIC_MODES)}, with --calibrate")
        if static and (self.zero_points or self.method == "hqq"):
            raise UsageError(f"--zero-points and --method hqq are not for {self.quant}, which steps around zero")
        if static and self.tensor_types:
            raise UsageError(f"--tensor-type is not for {self.quant}, whose products need one kind of weights")


def package_of(model: str) -> Path | None:
    """Where the ONNX package of that name lies; None where the name is of something else."""
    from edgeinfer import catalog

    with contextlib.suppress(ModelNotFound):
        found = catalog.resolve(model)
        return found.path if found.path.is_dir() else None
    return None


def quantize_onnx(folder: Path, out: Path, asked: Asked, *, force: bool, as_json: bool) -> None:
    """Write the package to ``out`` as asked, and say what came of it."""
    import time

    started = time.monotonic()
    asked.check()
    need_converter()
    from edgeinfer.converters.to_onnx.folder import check_target
    from edgeinfer.converters.to_onnx.mixture import Mixture, parse_form_override
    from edgeinfer.converters.to_onnx.options import Options
    from edgeinfer.converters.to_onnx.requantized import quantize_package

    quant: Any = asked.quant
    block: Any = asked.block
    mixture = Mixture(quant, block, tuple(map(parse_form_override, asked.tensor_types)), asked.zero_points)
    calibration = asked.calibration
    static = Static(quant, calibration, asked.method, asked.bits) if quant in STATIC_MODES else None
    out = out.expanduser()
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(download_progress(f"quantizing {printable(folder.name)}"))
        check_target(out, force)
        rounds = static.rounding if static else functools.partial(calibration.rounding, asked.method)
        rounding = stack.enter_context(rounds(folder, out, progress))
        options = Options(mixture=mixture, rounding=rounding, n_ctx=asked.n_ctx, force=force)
        made = (static.quantize if static else quantize_package)(folder, out, options, progress)
    say_unknown(rounding)
    say_package(made, time.monotonic() - started, as_json)
