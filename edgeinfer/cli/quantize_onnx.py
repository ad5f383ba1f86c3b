"""``edgeinfer quantize`` of an ONNX package."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgeinfer.cli.convert import need_converter, say_package, say_unknown
from edgeinfer.cli.pulling import download_progress
from edgeinfer.cli.rounding import Rounded
from edgeinfer.errors import ModelNotFound, UsageError
from edgeinfer.onnx.package import MODES, STATIC_MODES
from edgeinfer.text.printable import printable

__all__ = ["package_of", "quantize_onnx"]

_TYPES = tuple(mode for mode in MODES if mode != "keep")


def package_of(model: str) -> Path | None:
    """Where the ONNX package of that name lies; None where the name is of something else."""
    from edgeinfer import catalog

    with contextlib.suppress(ModelNotFound):
        found = catalog.resolve(model)
        return found.path if found.path.is_dir() else None
    return None


def quantize_onnx(folder: Path, out: Path, rounded: Rounded, n_ctx: int | None, *, force: bool, as_json: bool) -> None:
    """Write the package to ``out`` as the flags say, and say what came of it."""
    import time

    started = time.monotonic()
    _check(rounded)
    need_converter()
    from edgeinfer.converters.to_onnx.folder import check_target
    from edgeinfer.converters.to_onnx.options import Options
    from edgeinfer.converters.to_onnx.requantized import quantize_package

    static, mixture, out = rounded.static(), rounded.mixture(), out.expanduser()
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(download_progress(f"quantizing {printable(folder.name)}"))
        check_target(out, force)
        rounding = stack.enter_context(rounded.rounding(static, folder, out, progress))
        options = Options(mixture=mixture, rounding=rounding, n_ctx=n_ctx, force=force)
        made = (static.quantize if static else quantize_package)(folder, out, options, progress)
    say_unknown(rounding)
    say_package(made, time.monotonic() - started, as_json)


def _check(rounded: Rounded) -> None:
    if rounded.quant not in _TYPES:
        raise UsageError(f"--type {rounded.quant} is not one of ONNX packages: {', '.join(_TYPES)}")
    if rounded.method == "importance":
        raise UsageError("--method importance is for GGUF models; packages have rtn, search, hqq and gptq")
    rounded.check()
    if rounded.bits and rounded.quant not in STATIC_MODES:
        raise UsageError(f"--activations is for {' and '.join(STATIC_MODES)}, with --calibrate")
