"""``edgeinfer quantize`` of an ONNX package."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.cli.convert import need_converter, say_package
from edgeinfer.cli.pulling import download_progress
from edgeinfer.errors import ModelNotFound, UsageError
from edgeinfer.text.printable import printable

__all__ = ["Asked", "package_of", "quantize_onnx"]

_TYPES = ("int8", "int8-dynamic", "int4", "f16", "bf16", "f32")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the flags said."""

    quant: str
    tensor_types: tuple[str, ...]
    method: str
    block: int
    zero_points: bool


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
    need_converter()
    from edgeinfer.converters.to_onnx.mixture import Mixture, parse_form_override
    from edgeinfer.converters.to_onnx.requantized import quantize_package
    from edgeinfer.converters.to_onnx.rounding import METHODS, Rounding

    quant: Any = asked.quant.lower()
    if quant not in _TYPES:
        raise UsageError(f"--type {asked.quant} is not one of ONNX packages: {', '.join(_TYPES)}")
    overrides = tuple(map(parse_form_override, asked.tensor_types))
    method: Any = "rtn" if asked.method == "auto" else asked.method
    if method not in METHODS or method == "gptq":
        raise UsageError(
            f"--method {method} learns from a text, which is for GGUF models; packages have rtn, search and hqq"
        )
    if asked.method != "auto" and "int4" not in (quant, *(override.quant for override in overrides)):
        raise UsageError("--method is for int4")
    block: Any = asked.block
    with download_progress(f"quantizing {printable(folder.name)}") as progress:
        made = quantize_package(
            *(folder, out.expanduser(), Mixture(quant, block, overrides, asked.zero_points)),
            rounding=Rounding(method),
            force=force,
            progress=progress,
        )
    say_package(made, time.monotonic() - started, as_json)
