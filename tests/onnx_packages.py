"""Small ONNX packages: made by our converter from the small models of `small_models`, and damaged in any way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from small_models import small_model, written

from edgeinfer.converters.to_onnx.export import export

__all__ = ["damaged", "rewritten", "small_package"]


def small_package(folder: Path, architecture: str = "llama", *, seed: int = 0, **options: Any) -> tuple[Path, Path]:
    """(GGUF file, package) of one model of random weights; ``options`` are those of `export`."""
    model = written(small_model(architecture, seed=seed), folder, f"{architecture}.gguf")
    export(model, folder / architecture, **options)
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
