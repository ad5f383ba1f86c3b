"""The shared library that is built from ``kernels_cpu``: finding, declaring and loading it, and its instruction sets.

Importing this module never fails: where the library is missing, `available` is False, `why_not` says why in one line,
and all else raises `BackendUnavailable` with that line. Knows nothing of what the functions compute.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import sys
from pathlib import Path

from edgeinfer import env
from edgeinfer.errors import BackendUnavailable, UsageError

_ABI_VERSION = 3
_OK, _UNKNOWN = 0, -1
_N_ISAS = 7
"""What EDGEINFER_KERNELS says to switch our kernels off under llama.cpp. The library itself stays in use."""


def _library_name() -> str:
    if sys.platform == "win32":
        return "edgeinfer_kernels.dll"
    return "libedgeinfer_kernels.dylib" if sys.platform == "darwin" else "libedgeinfer_kernels.so"


def _candidates() -> list[Path]:
    """Where the library may lie: where the variable says, in our package (a wheel), where pip put it (editable)."""
    chosen = env.kernels()
    if chosen and chosen.lower() not in env.NO:
        return [Path(chosen).expanduser()]
    found = [Path(__file__).parents[1] / _library_name()]
    try:
        installed = importlib.metadata.distribution("edgeinfer").locate_file(f"edgeinfer/{_library_name()}")
    except importlib.metadata.PackageNotFoundError:
        return found
    return [*found, Path(str(installed))]


def path() -> Path | None:
    """The file of the library, whether it loads or not; None where there is none."""
    return next((path for path in _candidates() if path.is_file()), None)


def _declare(library: ctypes.CDLL) -> None:
    """Types of every function that is called from here; see ``edgeinfer_kernels.h``."""
    u32, i32, u64, text = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64, ctypes.c_char_p
    i64, size, address = ctypes.c_int64, ctypes.c_size_t, ctypes.c_void_p
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "ei_abi_version": (i32, []),
        "ei_isa_name": (text, [i32]),
        "ei_capabilities": (u32, []),
        "ei_best_isa": (i32, []),
        "ei_force_isa": (i32, [text]),
        "ei_probe_read": (u64, [i32, address, size]),
        "ei_probe_int8": (u64, [i32, u64]),
        "ei_encode": (i64, [i32, address, i64, i64, address, address]),
        "ei_decode": (i32, [i32, address, i64, i64, address]),
        "ei_build_blocks": (i64, [i32, address, address, i64, address]),
        "ei_top_k_scratch_bytes": (size, [i64, i64]),
        "ei_top_k": (i64, [i32, address, i64, i64, ctypes.c_float, address, address, address]),
        "ei_ggml_install": (text, [address]),
        "ei_ggml_pack": (None, [i32]),
        "ei_ggml_load": (None, [address]),
        "ei_ggml_collect": (None, [address]),
        "ei_version": (text, []),
        "ei_has_matmul": (i32, [i32, i64]),
        "ei_matmul_isa": (i32, [i32, i32]),
        "ei_quantize_isa": (i32, [i32, i32]),
        "ei_n_panels": (i64, [i64]),
        "ei_packed_bytes": (size, [i32, i64, i64]),
        "ei_pack": (None, [i32, address, size, i64, i64, address, i64, i64]),
        "ei_activation_bytes": (size, [i32, i64, i64]),
        "ei_n_quantize_items": (i64, [i32, i64, i64]),
        "ei_quantize": (None, [i32, i32, address, size, i64, i64, address, i64, i64]),
        "ei_matmul": (None, [i32, i32, address, i64, i64, address, i64, address, size, i64, i64]),
        "ei_attention_isa": (i32, [i32, i32]),
        "ei_attention_scratch_bytes": (size, [i64, i64, i32, i32, i32]),
        "ei_attention": (None, [i32, i32, address, address]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


@functools.cache
def try_load() -> ctypes.CDLL | str:
    """The library, or the line that says why there is none."""
    file = path()
    if file is None:
        return f"the kernel library is not at {_candidates()[-1]}; reinstall edgeinfer where a C++ compiler is at hand"
    try:
        library = ctypes.CDLL(str(file))
        _declare(library)
    except (OSError, AttributeError) as error:
        return f"the kernel library {file} does not load: {' '.join(str(error).split())}"
    if library.ei_abi_version() != _ABI_VERSION:
        return f"the kernel library {file} belongs to another version of edgeinfer; reinstall edgeinfer"
    return library


@functools.cache
def _refusal() -> str | None:
    """Apply EDGEINFER_FORCE_ISA once; the line that says why it cannot be, if so."""
    library, wanted = try_load(), env.force_isa()
    if isinstance(library, str) or wanted is None:
        return None
    answer = library.ei_force_isa(wanted.encode())
    if answer == _OK:
        return None
    names = ", ".join(_names(library, library.ei_capabilities()))
    problem = "is no instruction set we know" if answer == _UNKNOWN else "is not available on this machine"
    return f"EDGEINFER_FORCE_ISA={wanted} {problem}; it has {names}"


def load() -> ctypes.CDLL:
    """The library. Raises `BackendUnavailable` without it, or where EDGEINFER_FORCE_ISA asks for what is not here."""
    library = try_load()
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
    return not isinstance(try_load(), str)


def why_not() -> str:
    """Why `available` is False, in one line; empty when it is True."""
    library = try_load()
    return library if isinstance(library, str) else ""


def capabilities() -> tuple[str, ...]:
    """Instruction sets that this machine and this build have, from plain to best: ``("scalar", "avx2", "avx512vnni")``.

    Raises `BackendUnavailable` without the library, or where EDGEINFER_FORCE_ISA asks for what is not here.
    """
    library = load()
    return _names(library, library.ei_capabilities())


def best_isa() -> str:
    """The instruction set in use: this machine's best, or what EDGEINFER_FORCE_ISA names. Raises as `capabilities`."""
    library = load()
    name: bytes = library.ei_isa_name(library.ei_best_isa())
    return name.decode()


def version() -> str:
    """Of the library. Raises `BackendUnavailable` without it."""
    name: bytes = load().ei_version()
    return name.decode()


def isa_number(isa: str | None) -> int:
    """The C number of an instruction set, or of the one in use. Raises `UsageError` for one that is not here."""
    library = load()
    if isa is None:
        return int(library.ei_best_isa())
    if isa not in capabilities():
        raise UsageError(f"isa is {isa!r}, but must be one of {', '.join(capabilities())}")
    return next(number for number in range(_N_ISAS) if library.ei_isa_name(number).decode() == isa)
