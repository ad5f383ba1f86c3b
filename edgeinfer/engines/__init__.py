"""The engines, registered once by name and imported on use."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from edgeinfer.engines.base import Engine, EngineConfig
from edgeinfer.errors import BackendUnavailable, UsageError

__all__ = ["ENGINES", "Engine", "EngineConfig", "open_engine"]

EngineFactory = Callable[[Path, EngineConfig], Engine]

ENGINES = {
    "llamacpp": ("edgeinfer.engines.llamacpp:LlamaCppEngine", "llama-cpp-python"),
    "onnx": ("edgeinfer.engines.ort_open:open_onnx", "onnxruntime"),
}
"""Name -> (factory as ``module:attribute``, the package that it needs)."""


def open_engine(name: str, path: Path, config: EngineConfig) -> Engine:
    """Load the model at ``path``. ``auto`` goes by what lies there: a package is a folder. Raises `UsageError` for an
    unknown name, `BackendUnavailable` when the engine's package is missing, and what the engine raises."""
    if name == "auto":
        name = "onnx" if path.is_dir() else "llamacpp"
    if name not in ENGINES:
        raise UsageError(f"no engine {name!r}; there are: auto, {', '.join(sorted(ENGINES))}")
    factory, package = ENGINES[name]
    module, _, attribute = factory.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise BackendUnavailable(f"engine {name} needs {package}: pip install {package} ({error})") from error
    return cast(EngineFactory, found)(path, config)
