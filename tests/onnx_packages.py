"""Small ONNX packages: made by our converter from the small models of `small_models`, and damaged in any way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
from small_models import small_model, written

from edgeinfer.catalog.store import Progress
from edgeinfer.converters.to_onnx import export as converter
from edgeinfer.converters.to_onnx.mixture import FormOverride, Mixture
from edgeinfer.converters.to_onnx.options import Options
from edgeinfer.converters.to_onnx.requantize import Block, Quant
from edgeinfer.onnx.package import Package

__all__ = ["damaged", "export", "options", "rewritten", "small_package"]


def options(
    *,
    quant: Quant = "keep",
    block: Block = 32,
    overrides: Sequence[FormOverride] = (),
    zero_points: bool = False,
    **others: Any,
) -> Options:
    """`Options` without a mixture's parentheses."""
    return Options(mixture=Mixture(quant, block, tuple(overrides), zero_points), **others)


def export(
    path: Path, folder: Path, *, progress: Progress | None = None, reference: str | None = None, **asked: Any
) -> Package:
    """The converter's; ``asked`` as in `options`."""
    return converter.export(path, folder, options(**asked), progress, reference)


def small_package(folder: Path, architecture: str = "llama", *, seed: int = 0, **asked: Any) -> tuple[Path, Path]:
    """(GGUF file, package) of one model of random weights; ``asked`` as in `options`."""
    model = written(small_model(architecture, seed=seed), folder, f"{architecture}.gguf")
    export(model, folder / architecture, **asked)
    return model, folder / architecture


def rewritten(package: Path, change: Callable[[onnx.ModelProto], None], model: str = "model.onnx") -> None:
    """Change a package's graph, with a manifest that vouches for the new one."""
    proto = onnx.load(package / model, load_external_data=False)
    change(proto)
    data = proto.SerializeToString()
    (package / model).write_bytes(data)
    manifest = json.loads((package / "edgeinfer.json").read_text())
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    for variant in manifest["variants"].values():
        if model in variant["files"]:
            variant["files"][model] = entry
    (package / "edgeinfer.json").write_text(json.dumps(manifest))


def damaged(package: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a package's manifest."""
    manifest = json.loads((package / "edgeinfer.json").read_text())
    change(manifest)
    (package / "edgeinfer.json").write_text(json.dumps(manifest))
