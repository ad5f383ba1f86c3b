"""Our kernels under llama.cpp: whether they run there, and if not, why. Knows nothing of models and tensors."""

from __future__ import annotations

import ctypes
import importlib.metadata
import threading
from dataclasses import dataclass

from edgeinfer import env
from edgeinfer.kernels import library


@dataclass(frozen=True, slots=True)
class KernelReport:
    """Whether our kernels run under llama.cpp; if not, ``why`` says so in one line."""

    active: bool
    why: str = ""


_PLUGIN_VERSION = "0.3.36"
_install_lock = threading.Lock()
_report: KernelReport | None = None


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
            _report = KernelReport(active=not why, why=why)
        return _report


def _install() -> str:
    """Install, or say why not."""
    if (env.kernels() or "").lower() in library.OFF:
        return "our kernels are switched off by EDGEINFER_KERNELS"
    kernels = library.try_load()
    if isinstance(kernels, str):
        return kernels
    library.load()  # raises where a forced instruction set is missing
    try:
        found = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return "llama-cpp-python is not installed"
    if found != _PLUGIN_VERSION:
        return f"our kernels are written for llama-cpp-python {_PLUGIN_VERSION}, not {found}"
    from llama_cpp import llama_cpp as binding

    # The handle of libllama finds what its dependencies export. Loading those by name would load them again: a wheel
    # holds copies where a build has links.
    llama: ctypes.CDLL = binding._lib

    def resolve(name: bytes) -> int | None:
        function = getattr(llama, name.decode(), None)
        return None if function is None else ctypes.cast(function, ctypes.c_void_p).value

    callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(resolve)
    why: bytes | None = kernels.ei_ggml_install(callback)
    return why.decode() if why else ""
