"""A shelf of saved states for a model that has been opened: what its states depend on, and how much memory copies take.

Off unless asked for: a library writes nothing to disk on its own. The command line asks for it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

from edgeinfer import env, kernels
from edgeinfer.core import ModelInfo
from edgeinfer.coverage import has_our_operators
from edgeinfer.described import Described, weight_files
from edgeinfer.engines import Engine, EngineConfig
from edgeinfer.errors import UsageError
from edgeinfer.files import parse_bytes
from edgeinfer.kernels import library
from edgeinfer.kv import Shelf
from edgeinfer.kv.fingerprint import Fingerprint, Setting
from edgeinfer.kv.store import Store
from edgeinfer.kv.weights import known_hash, weights_hash
from edgeinfer.memory import saved_bytes
from edgeinfer.onnx.package import Package

__all__ = ["cap_of", "fingerprint", "open_shelf"]


def cap_of(kv_cache: str | int) -> int:
    """Bytes that saved states may take on disk; 0 for ``off``. Raises `UsageError` for what is neither."""
    if isinstance(kv_cache, str) and kv_cache.strip().lower() in env.NO:
        return 0
    try:
        cap = parse_bytes(kv_cache)
    except UsageError as error:
        raise UsageError(f"kv_cache is {kv_cache!r}, but must be a size such as 4G, or off") from error
    if cap < 0:
        raise UsageError(f"kv_cache is {kv_cache!r}, but must be a size such as 4G, or off")
    return cap


def open_shelf(
    engine: Engine,
    file: Described,
    info: ModelInfo,
    config: EngineConfig,
    report: kernels.KernelReport,
    *,
    cap_bytes: int,
    said: Callable[[str], None],
) -> Shelf:
    """The shelf of an open model. The first time, the whole file has to be read to know what states depend on: that is
    left to the shelf's own thread."""

    def identify(weights: str | None = None) -> Fingerprint:
        return fingerprint(weights or _hashed(file, weights_hash) or "", file, info, config, report)

    known = None
    with contextlib.suppress(OSError):  # the shelf's thread meets it too, and says it
        known = _hashed(file, known_hash)
    store = Store(said=said, cap_bytes=cap_bytes)
    room = saved_bytes(file, config)
    return Shelf(
        store,
        identify(known) if known else identify,
        room_bytes=room,
        token_bytes=room / config.n_ctx,
        whole=not engine.rewinds,
        said=said,
    )


def _hashed(file: Described, of: Callable[[Path], str | None]) -> str | None:
    """The hash of all of a model's weights, by way of the hashes of its files; None where one is not known."""
    if not isinstance(file, Package):
        return of(file.path)
    hashes = [(path.name, of(path)) for path in weight_files(file)]
    if any(known is None for _, known in hashes):
        return None
    return hashlib.sha256(repr(hashes).encode()).hexdigest()


def fingerprint(
    weights: str, file: Described, info: ModelInfo, config: EngineConfig, report: kernels.KernelReport
) -> Fingerprint:
    """Whatever the bits of a state depend on; ``weights`` is the hash of the model. Raises `OSError` where the library
    of our kernels cannot be read.

    Our kernels give a token the same bits with any number of threads, in a pass of any size, in any cell: then the
    size of the context and of batches make no difference. llama.cpp's own promise nothing, so all of it is told.
    """
    if isinstance(file, Package):
        return _package_fingerprint(weights, file, info, config)
    settings: list[Setting] = [("isolate", config.isolate), ("swa_full", True)]
    if config.isolate:
        names = ("n_seq_max", "n_threads", "n_threads_batch", "n_batch", "n_ctx")
        settings += [(name, getattr(config, name)) for name in names]
    rope: tuple[Setting, ...] = ()
    if "rope_factors_long.weight" in file.tensors:  # which factors are taken depends on the size of the context
        rope = (("n_ctx", config.n_ctx), ("n_cells", config.n_cells))
    return Fingerprint(
        weights=weights,
        engine="llamacpp",
        library=_llama_build(),
        kernels=_our_build(report),
        kv_type=config.kv_type,
        rope=rope,
        settings=tuple(settings),
        label=info.name,
    )


def _package_fingerprint(weights: str, package: Package, info: ModelInfo, config: EngineConfig) -> Fingerprint:
    """Where ONNX Runtime's kernels compute, keys and values are float32, and their bits may depend on the provider and
    on how prompts are cut."""
    import onnxruntime

    ours = has_our_operators(package, config)
    settings: list[Setting] = [("device", config.device), ("require", config.require)]
    if not ours:
        settings += [(name, getattr(config, name)) for name in ("isolate", "n_threads", "n_threads_batch", "n_batch")]
    return Fingerprint(
        weights=weights,
        engine="onnx",
        library=f"onnxruntime {onnxruntime.__version__}; {onnxruntime.get_build_info()}",
        kernels=f"{library.version()} {kernels.best_isa()} {_library_hash()}" if ours else "",
        kv_type=config.kv_type if ours else "f32",
        settings=tuple(settings),
        label=info.name,
    )


def _llama_build() -> str:
    """Version and build: which instruction sets it was built for, and which it has found here."""
    import llama_cpp

    features: bytes = llama_cpp.llama_print_system_info()
    return f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}; {features.decode('utf-8', 'replace')}"


def _our_build(report: kernels.KernelReport) -> str:
    """Instruction set and build of our kernels: two builds of one version need not round alike."""
    return f"{report.isa} {_library_hash()}" if report.active else "llama.cpp"


def _library_hash() -> str:
    return hashlib.sha256(Path(str(library.load()._name)).read_bytes()).hexdigest()
