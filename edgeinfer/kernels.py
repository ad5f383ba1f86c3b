"""Our C++ kernels as Python sees them: the instruction sets there are, what the machine can do at most, the abort flag.

Owns the loading of the shared library that is built from ``kernels_cpu``. Importing this module never fails: where the
library is missing, `available` is False, `why_not` says why in one line, and all else raises `BackendUnavailable` with
that line. Knows nothing of models, the names of tensors, or engines.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeinfer import env
from edgeinfer.errors import BackendUnavailable, UsageError

__all__ = [
    "AbortFlag",
    "KernelReport",
    "abort_flag",
    "available",
    "best_isa",
    "capabilities",
    "install",
    "int8_peak",
    "read_bandwidth",
    "why_not",
]

_ABI_VERSION = 1
_OK, _UNKNOWN = 0, -1
_N_ISAS = 7
_OFF = ("0", "false", "no", "off")


def _library_name() -> str:
    if sys.platform == "win32":
        return "edgeinfer_kernels.dll"
    return "libedgeinfer_kernels.dylib" if sys.platform == "darwin" else "libedgeinfer_kernels.so"


def _candidates() -> list[Path]:
    """Where the library may lie: where the variable says, beside this file (a wheel), where pip put it (editable)."""
    chosen = env.kernels()
    if chosen and chosen.lower() not in _OFF:
        return [Path(chosen).expanduser()]
    found = [Path(__file__).with_name(_library_name())]
    try:
        installed = importlib.metadata.distribution("edgeinfer").locate_file(f"edgeinfer/{_library_name()}")
    except importlib.metadata.PackageNotFoundError:
        return found
    return [*found, Path(str(installed))]


def _declare(library: ctypes.CDLL) -> None:
    """Types of every function that is called from here; see ``edgeinfer_kernels.h``."""
    u32, i32, u64, text = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64, ctypes.c_char_p
    signatures: dict[str, tuple[type, list[type]]] = {
        "ei_abi_version": (i32, []),
        "ei_isa_name": (text, [i32]),
        "ei_capabilities": (u32, []),
        "ei_best_isa": (i32, []),
        "ei_force_isa": (i32, [text]),
        "ei_probe_read": (u64, [i32, ctypes.c_void_p, ctypes.c_size_t]),
        "ei_probe_int8": (u64, [i32, u64]),
        "ei_ggml_install": (text, [ctypes.c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or the line that says why there is none."""
    candidates = _candidates()
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        return f"the kernel library is not at {candidates[-1]}; reinstall edgeinfer where a C++ compiler is at hand"
    try:
        library = ctypes.CDLL(str(path))
        _declare(library)
    except (OSError, AttributeError) as error:
        return f"the kernel library {path} does not load: {' '.join(str(error).split())}"
    if library.ei_abi_version() != _ABI_VERSION:
        return f"the kernel library {path} belongs to another version of edgeinfer; reinstall edgeinfer"
    return library


@functools.cache
def _refusal() -> str | None:
    """Apply EDGEINFER_FORCE_ISA once; the line that says why it cannot be, if so."""
    library, wanted = _load(), env.force_isa()
    if isinstance(library, str) or wanted is None:
        return None
    answer = library.ei_force_isa(wanted.encode())
    if answer == _OK:
        return None
    names = ", ".join(_names(library, library.ei_capabilities()))
    problem = "is no instruction set we know" if answer == _UNKNOWN else "is not available on this machine"
    return f"EDGEINFER_FORCE_ISA={wanted} {problem}; it has {names}"


def _library() -> ctypes.CDLL:
    library = _load()
    if isinstance(library, str):
        raise BackendUnavailable(library)
    refusal = _refusal()
    if refusal:
        raise BackendUnavailable(refusal)
    return library


def _names(library: ctypes.CDLL, mask: int) -> tuple[str, ...]:
    return tuple(library.ei_isa_name(isa).decode() for isa in range(_N_ISAS) if mask >> isa & 1)


def available() -> bool:
    """True when the library is there and loads."""
    return not isinstance(_load(), str)


def why_not() -> str:
    """Why `available` is False, in one line; empty when it is True."""
    library = _load()
    return library if isinstance(library, str) else ""


def capabilities() -> tuple[str, ...]:
    """Instruction sets that this machine and this build have, from plain to best: ``("scalar", "avx2", "avx512vnni")``.

    Raises `BackendUnavailable` without the library, or where EDGEINFER_FORCE_ISA asks for what is not here.
    """
    library = _library()
    return _names(library, library.ei_capabilities())


def best_isa() -> str:
    """The instruction set in use: this machine's best, or what EDGEINFER_FORCE_ISA names. Raises as `capabilities`."""
    library = _library()
    name: bytes = library.ei_isa_name(library.ei_best_isa())
    return name.decode()


class AbortFlag:
    """A flag that llama.cpp's abort callback reads without entering Python.

    ``callback_address`` is a C function ``bool(void *)`` and ``address`` its argument; both hold as long as this object
    lives. Any thread may raise or lower the flag. Raises `BackendUnavailable` without the library.
    """

    def __init__(self) -> None:
        address = ctypes.cast(_library().ei_flag, ctypes.c_void_p).value
        if address is None:
            raise BackendUnavailable("the kernel library has no abort callback; reinstall edgeinfer")
        self._value = ctypes.c_int32(0)
        self.callback_address: int = address
        self.address: int = ctypes.addressof(self._value)

    def raise_(self) -> None:
        """Make the callback answer True from now on."""
        self._value.value = 1

    def lower(self) -> None:
        """Make the callback answer False from now on."""
        self._value.value = 0

    @property
    def raised(self) -> bool:
        """What the callback would answer."""
        return self._value.value != 0


def abort_flag() -> AbortFlag:
    """A new flag, lowered."""
    return AbortFlag()


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
    if (env.kernels() or "").lower() in _OFF:
        return "our kernels are switched off by EDGEINFER_KERNELS"
    library = _load()
    if isinstance(library, str):
        return library
    _library()  # raises where a forced instruction set is missing
    try:
        found = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return "llama-cpp-python is not installed"
    if found != _PLUGIN_VERSION:
        return f"our kernels are written for llama-cpp-python {_PLUGIN_VERSION}, not {found}"
    from llama_cpp import llama_cpp as binding

    # The handle of libllama finds what its dependencies export. Loading those by name would load them again: a wheel holds
    # copies where a build has links.
    llama: ctypes.CDLL = binding._lib

    def resolve(name: bytes) -> int | None:
        function = getattr(llama, name.decode(), None)
        return None if function is None else ctypes.cast(function, ctypes.c_void_p).value

    callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(resolve)
    why: bytes | None = library.ei_ggml_install(callback)
    return why.decode() if why else ""


def read_bandwidth(
    n_threads: int, seconds: float = 0.3, *, buffer_bytes: int = 256 << 20, isa: str | None = None
) -> float:
    """Bytes per second that ``n_threads`` threads read from memory together.

    Streams through ``buffer_bytes`` that are allocated for the duration: take more than four last-level caches.
    ``isa`` (default: the one in use) chooses the width of the loads. Raises `BackendUnavailable`, `UsageError`.
    """
    library, number = _library(), _isa_number(isa)
    share = buffer_bytes // max(1, n_threads) // 4096 * 4096
    if share == 0:
        raise UsageError(f"buffer_bytes is {buffer_bytes}, but must be at least 4096 for each of {n_threads} threads")
    memory = np.ones(share * max(1, n_threads) + 4096, dtype=np.uint8)
    start = -memory.ctypes.data % 4096 + memory.ctypes.data
    # One call takes about a millisecond: short enough to stop in time, long enough that Python does not count.
    piece = min(share, 8 << 20)

    def work(thread: int, n_calls: int) -> int:
        at = start + thread * share + n_calls * piece % (share // piece * piece)
        return piece if library.ei_probe_read(number, at, piece) else 0

    return _rate(work, n_threads, seconds, f"read bandwidth with {isa or best_isa()}")


def int8_peak(n_threads: int, seconds: float = 0.2, *, isa: str | None = None) -> float:
    """Int8 multiply-accumulates per second on registers, two operations each, of ``n_threads`` threads together.

    The ceiling of a quantized matrix product with ``isa`` (default: the one in use). Raises as `read_bandwidth`.
    """
    library, number = _library(), _isa_number(isa)

    def work(thread: int, n_calls: int) -> int:  # noqa: ARG001
        return int(library.ei_probe_int8(number, 100_000))

    return _rate(work, n_threads, seconds, f"int8 peak with {isa or best_isa()}")


def _isa_number(isa: str | None) -> int:
    """The C number of an instruction set, or of the one in use."""
    library = _library()
    if isa is None:
        return int(library.ei_best_isa())
    if isa not in capabilities():
        raise UsageError(f"isa is {isa!r}, but must be one of {', '.join(capabilities())}")
    return next(number for number in range(_N_ISAS) if library.ei_isa_name(number).decode() == isa)


def _rate(work: Callable[[int, int], int], n_threads: int, seconds: float, what: str) -> float:
    """Units per second that ``work(thread, n_calls)`` reports from ``n_threads`` threads that start together."""
    if n_threads < 1:
        raise UsageError(f"n_threads is {n_threads}, but must be at least 1")
    together = threading.Barrier(n_threads)
    spans: list[tuple[float, float, int]] = []

    def run(thread: int) -> None:
        work(thread, 0)  # wakes the core and touches the pages
        together.wait()
        begin = now = time.perf_counter()
        done = n_calls = 0
        while now - begin < seconds:
            done += work(thread, n_calls)
            n_calls += 1
            now = time.perf_counter()
        spans.append((begin, now, done))

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(done for _, _, done in spans)
    if total == 0:
        raise BackendUnavailable(f"no probe for {what} in this build")
    return total / (max(end for _, end, _ in spans) - min(begin for begin, _, _ in spans))
