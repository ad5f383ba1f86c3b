"""Our kernels under llama.cpp: whether they run there, and if not, why. Knows nothing of models and tensors."""

from __future__ import annotations

import ctypes
import importlib.metadata
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from edgeinfer import env, process
from edgeinfer.errors import UsageError
from edgeinfer.kernels import library


@dataclass(frozen=True, slots=True)
class KernelReport:
    """Whether our kernels run under llama.cpp, and of which instruction set; if not, ``why`` says so in one line."""

    active: bool
    why: str = ""
    isa: str | None = None


_PLUGIN_VERSION = "0.3.36"
_install_lock = threading.Lock()
_report: KernelReport | None = None


def _renew() -> None:
    global _install_lock
    _install_lock = threading.Lock()


process.in_forked_child(_renew)


def install() -> KernelReport:
    """Put our kernels under llama.cpp for every model that this process loads from now on.

    Call it before the first load; further calls answer the same. Where they cannot run (another version of llama.cpp, a
    processor without their instruction sets, a failed self-test, EDGEINFER_KERNELS=0), llama.cpp stays as it is and the
    report says why. Raises `BackendUnavailable` only where EDGEINFER_FORCE_ISA asks for what is not here.
    """
    global _report
    with _install_lock:
        if _report is None:
            why = _install()
            _report = KernelReport(False, why) if why else KernelReport(True, isa=library.best_isa())
        return _report


def expected() -> KernelReport:
    """What `install` will probably answer, without loading llama.cpp or trying anything: for plans made before."""
    if _report is not None:
        return _report
    why = _refusal()
    return KernelReport(False, why) if why else KernelReport(True, isa=library.best_isa())


def has_matmul(type_id: int, n_cols: int) -> bool:
    """Whether we multiply with matrices of this GGUF type and row length. Raises `BackendUnavailable`."""
    return bool(library.load().ei_has_matmul(type_id, n_cols))


def matmul_isa(type_id: int) -> str:
    """The instruction set of the kernel that multiplies with this GGUF type here: the one in use, or the best that it
    builds on. Raises `BackendUnavailable`, and `UsageError` for a type without one."""
    kernels = library.load()
    isa = kernels.ei_matmul_isa(type_id, kernels.ei_best_isa())
    if isa < 0:
        raise UsageError(f"there is no kernel for GGUF type {type_id}")
    name: bytes = kernels.ei_isa_name(isa)
    return name.decode()


@contextmanager
def loading(ours: bool) -> Iterator[KernelReport]:
    """Around the load of a model, on the thread that loads: with our kernels if they are wanted and can be had."""
    if ours:
        report = install()
        if report.active:
            library.load().ei_ggml_pack(1)
        yield report
        return
    why = "our kernels are switched off"
    if _report is None or not _report.active:
        yield KernelReport(False, why)
        return
    kernels = library.load()
    kernels.ei_ggml_pack(0)
    try:
        yield KernelReport(False, f"{why} for this model; attention stays ours, for another model of this process")
    finally:
        kernels.ei_ggml_pack(1)


def _refusal() -> str:
    """Why our kernels cannot run, as far as can be told without llama.cpp; empty when they can."""
    if (env.kernels() or "").lower() in env.NO:
        return "our kernels are switched off by EDGEINFER_KERNELS"
    kernels = library.try_load()
    if isinstance(kernels, str):
        return kernels
    if library.best_isa() == "scalar":  # raises where a forced instruction set is missing
        return "this processor has none of the instruction sets that our kernels need"
    try:
        found = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return "llama-cpp-python is not installed"
    if found != _PLUGIN_VERSION:
        return f"our kernels are written for llama-cpp-python {_PLUGIN_VERSION}, not {found}"
    return ""


def _install() -> str:
    """Install, or say why not."""
    why = _refusal()
    if why:
        return why
    from llama_cpp import llama_cpp as binding

    # The handle of libllama finds what its dependencies export. Loading those by name would load them again: a wheel
    # holds copies where a build has links.
    llama: ctypes.CDLL = binding._lib

    def resolve(name: bytes) -> int | None:
        function = getattr(llama, name.decode(), None)
        return None if function is None else ctypes.cast(function, ctypes.c_void_p).value

    callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(resolve)
    # Its self-test computes. OpenMP keeps a team for each thread that did, and waits more lazily in all teams once they
    # have more threads than there are processors, which costs decode a quarter: so from a thread that ends.
    with ThreadPoolExecutor(1, thread_name_prefix="edgeinfer-self-test") as pool:
        refusal: bytes | None = pool.submit(library.load().ei_ggml_install, callback).result()
    return refusal.decode() if refusal else ""
