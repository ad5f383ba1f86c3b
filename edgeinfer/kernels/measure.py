"""How fast our kernels are here, next to what the machine can do: the figures of ``edgeinfer bench --kernels``.

Knows nothing of models: matrices, keys and values are made up, and larger than the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from edgeinfer.errors import UsageError
from edgeinfer.gguf import TENSOR_TYPES, TensorType
from edgeinfer.kernels import library
from edgeinfer.kernels.cases import Attention, Case, Matmul, Quantize, Sizes
from edgeinfer.kernels.plugin import has_matmul
from edgeinfer.kernels.probes import int8_peak, read_bandwidth

__all__ = ["Figure", "Report", "known_formats", "measure"]

_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Figure:
    """One kernel at one number of columns (or of tokens that attend) ``m``.

    ``bandwidth_share``: ``bytes_per_s`` over the measured read bandwidth; None for quantize, which works in the caches.
    ``peak_share``: ``ops_per_s`` over the int8 peak measured with the same instruction set; None for products of floats
    and attention, which compute in single precision, for which there is no probe."""

    op: str
    format: str
    isa: str
    m: int
    bytes_per_s: float
    ops_per_s: float | None
    bandwidth_share: float | None
    peak_share: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """``read_bytes_per_s`` and, by instruction set, ``int8_ops_per_s`` are what the machine does at most. Quantizing is
    measured with one thread, all else with ``n_threads``."""

    n_threads: int
    read_bytes_per_s: float
    int8_ops_per_s: Mapping[str, float]
    figures: tuple[Figure, ...]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def known_formats() -> tuple[str, ...]:
    """Formats of weights that there are kernels for, by name. Raises `BackendUnavailable` without the library."""
    return tuple(kind.name for kind in TENSOR_TYPES.values() if has_matmul(kind.id, 256))


def measure(
    *,
    n_threads: int,
    formats: Sequence[str] = (),
    isas: Sequence[str] = (),
    sizes: Sizes | None = None,
    said: Callable[[str], None] = lambda _what: None,
) -> Report:
    """Measure matrix products, quantizing and, for F16 and Q8_0, attention: for these formats and instruction sets or
    all of this machine's; a kernel that several of them share is measured once. ``said`` hears what is being measured.

    Each result is compared with the scalar kernel's first: raises `EngineError` for one that is not the same bits,
    `UsageError` for names that are unknown or not here, `BackendUnavailable` without the library."""
    sizes = sizes or Sizes()
    kinds = _kinds(formats)
    asked = [library.isa_number(isa) for isa in dict.fromkeys(isas or library.capabilities())]
    names = {library.isa_number(isa): isa for isa in library.capabilities()}
    said("the machine's limits")
    bandwidth = _bandwidth(n_threads, sizes)
    peaks: dict[str, float] = {}
    figures = []
    for case in _cases(kinds, sizes, n_threads, said):
        for isa in dict.fromkeys(map(case.kernel_isa, asked)):
            said(f"{case.op} {case.format}, {names[isa]}")
            if _peak_counts(case) and names[isa] not in peaks:
                peaks[names[isa]] = int8_peak(n_threads, min(0.2, 2 * sizes.seconds), isa=names[isa])
            figures += [_figure(case, isa, names[isa], m, bandwidth, peaks) for m in sizes.columns]
    return Report(n_threads, bandwidth, peaks, tuple(figures))


def _kinds(formats: Sequence[str]) -> list[TensorType]:
    """What the names stand for, in the order of GGUF's numbers; all of them for none."""
    known = known_formats()
    wanted = {name.upper() for name in formats}
    for name in formats:
        if name.upper() not in known:
            raise UsageError(f"format is {name!r}, but must be one of {', '.join(known)}")
    return [kind for kind in TENSOR_TYPES.values() if kind.name in (wanted or known)]


def _bandwidth(n_threads: int, sizes: Sizes) -> float:
    """With the widest loads, whatever is in use."""
    best = library.capabilities()[-1]
    return read_bandwidth(n_threads, 4 * sizes.seconds, buffer_bytes=2 * sizes.memory_bytes, isa=best)


def _cases(kinds: Sequence[TensorType], sizes: Sizes, n_threads: int, said: Callable[[str], None]) -> Iterator[Case]:
    """One at a time: each holds ``memory_bytes``."""
    for kind in kinds:
        yield Quantize(kind, sizes)
        said(f"packing {kind.name}")
        yield Matmul(kind, sizes, n_threads)
    for kind in kinds:
        if kind.name in Attention.formats:
            said(f"filling a KV cache of {kind.name}")
            yield Attention(kind, sizes, n_threads)


def _peak_counts(case: Case) -> bool:
    return case.op == Matmul.op and case.format not in _FLOATS


def _figure(case: Case, isa: int, name: str, m: int, bandwidth: float, peaks: Mapping[str, float]) -> Figure:
    speed = case.run(isa, m)
    share = None if case.op == Quantize.op else speed.bytes_per_s / bandwidth
    peak = speed.ops_per_s / peaks[name] if speed.ops_per_s is not None and _peak_counts(case) else None
    return Figure(case.op, case.format, name, m, speed.bytes_per_s, speed.ops_per_s, share, peak)
