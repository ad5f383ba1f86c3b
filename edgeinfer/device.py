"""What this machine is: its processor, the kinds of its cores, and how many of them this process may use.

Reads only what the system tells (sysfs, sysctl, cgroups), in a few milliseconds; nothing here measures anything, and
nothing is read when the module is imported. Memory is `edgeinfer.memory`'s, instruction sets are `edgeinfer.kernels`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeinfer.core import MAX_THREADS

__all__ = [
    "CPU",
    "Battery",
    "Core",
    "battery",
    "cgroup_folders",
    "cpu",
    "cpu_quota",
    "default_threads",
    "machine_key",
    "usable_cpus",
]

CoreKind = Literal["performance", "efficiency"]

_ROOT = Path("/")
# A core counts as an efficiency core below this share of the fastest. Capacity is measured work, so that a phone's
# middle cores stay performance cores; frequencies lie closer, yet favoured cores differ by less than a tenth.
_CAPACITY_SHARE = 0.5
_FREQUENCY_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Core:
    """One physical core: its kind and the numbers of its hardware threads, as the system counts them."""

    kind: CoreKind
    threads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CPU:
    """The processors of this machine, all of them, whether we may use them or not."""

    model: str
    architecture: str
    cores: tuple[Core, ...]

    @property
    def n_logical(self) -> int:
        return sum(len(core.threads) for core in self.cores)

    def n_cores(self, kind: CoreKind | None = None) -> int:
        """Physical cores, of one kind or of all."""
        return sum(kind in (None, core.kind) for core in self.cores)


@dataclass(frozen=True, slots=True)
class Battery:
    """Charge in percent, and whether the machine runs on it: ``plugged_in`` is None where the system does not say."""

    percent: float
    plugged_in: bool | None


@functools.cache
def cpu() -> CPU:
    """The processors of this machine."""
    if sys.platform.startswith("linux"):
        cores = linux_cores(_ROOT)
    elif sys.platform == "darwin":
        cores = _darwin_cores()
    elif sys.platform == "win32":
        cores = _windows_cores()
    else:
        cores = ()
    return CPU(_model(), platform.machine() or "unknown", cores or _plain_cores())


def usable_cpus() -> frozenset[int]:
    """Hardware threads that this process may run on: the affinity mask, or all where the system has none."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is not None:
        return frozenset(affinity(0))
    return frozenset(number for core in cpu().cores for number in core.threads)


def default_threads() -> int:
    """Threads to compute with unless measured otherwise: one a performance core within mask and quota."""
    return threads_for(cpu().cores, usable_cpus(), cpu_quota())


def threads_for(cores: Sequence[Core], usable: frozenset[int], quota: float | None) -> int:
    """One a usable performance core (efficiency core where there is none), no more than the quota, at least 1."""
    kinds = Counter(core.kind for core in cores if not usable.isdisjoint(core.threads))
    n_cores = kinds["performance"] or kinds["efficiency"] or len(usable)
    if quota is not None:
        n_cores = min(n_cores, int(quota + 0.5))
    return max(1, min(n_cores, MAX_THREADS))


def machine_key() -> str:
    """A line that is the same while thread counts measured here hold: this processor under these limits."""
    from edgeinfer import kernels

    isa = kernels.best_isa() if kernels.available() else "no kernels"
    quota = cpu_quota()
    share = f"{len(usable_cpus())} of {cpu().n_logical} threads"
    return f"{cpu().model}; {cpu().n_cores()} cores; {share}; {isa}" + (f"; quota {quota:g}" if quota else "")


def battery() -> Battery | None:
    """The battery, where there is one and the system tells."""
    import psutil

    with contextlib.suppress(Exception):  # drivers that report nonsense raise all sorts of errors
        state = psutil.sensors_battery()
        if state is not None:
            return Battery(round(float(state.percent), 1), state.power_plugged)
    return None


# ---- limits of containers


def cgroup_folders(controller: str, root: Path = _ROOT) -> Iterator[Path]:
    """The control group folders whose limits hold for this process, innermost first; none outside Linux.

    ``controller`` is ``cpu`` or ``memory``; version 2 keeps both in one tree, version 1 has a tree for each. Inside a
    container the names in /proc are often those of the host and not to be found; then the mount itself is our group.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            mount = root / "sys/fs/cgroup"
            if not (mount / "cgroup.controllers").exists():  # the hybrid layout
                mount = mount / "unified"
        elif controller in names.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = mount.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder


def cpu_quota(root: Path = _ROOT) -> float | None:
    """CPUs' worth of time that a container grants this process, the tightest of all levels; None when unlimited."""
    found = []
    for folder in cgroup_folders("cpu", root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        with contextlib.suppress(ValueError, ZeroDivisionError):  # "max", or not there
            if int(quota) > 0:
                found.append(int(quota) / int(period))
    return min(found, default=None)


# ---- Linux


def linux_cores(root: Path) -> tuple[Core, ...]:
    """Cores from sysfs; empty where it does not tell."""
    folders = {}
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*"):
        if folder.name[3:].isdigit() and (folder / "topology").is_dir():  # an offline CPU has no topology
            folders[int(folder.name[3:])] = folder
    slow = _slow_cpus(root, folders)
    siblings: dict[tuple[int, ...], CoreKind] = {}
    for number, folder in sorted(folders.items()):
        text = _text(folder / "topology/core_cpus_list") or _text(folder / "topology/thread_siblings_list")
        threads = tuple(sorted(set(parse_list(text)) & set(folders))) or (number,)
        siblings[threads] = "efficiency" if number in slow else "performance"
    return tuple(Core(kind, threads) for threads, kind in siblings.items())


def _slow_cpus(root: Path, folders: dict[int, Path]) -> frozenset[int]:
    """Threads of efficiency cores: as Intel's hybrids list them, else by measured capacity, else by frequency."""
    atoms = parse_list(_text(root / "sys/devices/cpu_atom/cpus"))
    if atoms and _text(root / "sys/devices/cpu_core/cpus"):
        return frozenset(atoms)
    for name, share in (("cpu_capacity", _CAPACITY_SHARE), ("cpufreq/cpuinfo_max_freq", _FREQUENCY_SHARE)):
        values = {number: _text(folder / name) for number, folder in folders.items()}
        if values and all(value.isdigit() for value in values.values()):
            top = max(int(value) for value in values.values())
            slow = frozenset(number for number, value in values.items() if int(value) < share * top)
            if slow:
                return slow
    return frozenset()


def parse_list(text: str) -> list[int]:
    """``0-3,8`` -> [0, 1, 2, 3, 8]; empty for what is no such list."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) > 1 << 16:
            return []
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def _text(path: Path) -> str:
    """A small system file, stripped; empty when it is not there or not for us."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


# ---- macOS and Windows


def _sysctl(name: str) -> bytes:
    """A value of macOS's sysctl; empty when there is none of that name."""
    library: Any = ctypes.CDLL(None)
    size = ctypes.c_size_t(256)
    buffer = ctypes.create_string_buffer(size.value)
    failed = library.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0))
    return b"" if failed else buffer.raw[: size.value]


def _sysctl_int(name: str) -> int:
    return int.from_bytes(_sysctl(name), sys.byteorder)


def _darwin_cores() -> tuple[Core, ...]:
    """Performance levels come fastest first; macOS does not number the threads of a core, so we do."""
    levels: list[tuple[CoreKind, int, int]] = []
    for level in range(_sysctl_int("hw.nperflevels")):
        name = f"hw.perflevel{level}"
        kind: CoreKind = "efficiency" if level else "performance"
        levels.append((kind, _sysctl_int(f"{name}.physicalcpu"), _sysctl_int(f"{name}.logicalcpu")))
    if not levels:
        levels.append(("performance", _sysctl_int("hw.physicalcpu"), _sysctl_int("hw.logicalcpu")))
    return numbered(levels)


def numbered(levels: Sequence[tuple[CoreKind, int, int]]) -> tuple[Core, ...]:
    """Cores of (kind, physical, logical) counts, with threads numbered in order."""
    cores: list[Core] = []
    first = 0
    for kind, n_physical, n_logical in levels:
        each = max(1, n_logical // max(1, n_physical))
        for _ in range(n_physical):
            cores.append(Core(kind, tuple(range(first, first + each))))
            first += each
    return tuple(cores)


def _windows_cores() -> tuple[Core, ...]:
    """``GetLogicalProcessorInformationEx`` for processor cores (relation 0); empty where it fails."""
    kernel32: Any = getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 (absent from ctypes elsewhere)
    size = ctypes.c_uint32(0)
    kernel32.GetLogicalProcessorInformationEx(0, None, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    if not kernel32.GetLogicalProcessorInformationEx(0, buffer, ctypes.byref(size)):
        return ()
    return windows_cores(buffer.raw[: size.value])


def windows_cores(records: bytes) -> tuple[Core, ...]:
    """Cores from the records of ``SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX``.

    Layout: u32 relation, u32 size, u8 flags, u8 efficiency class (higher is faster), 20 reserved bytes, u16 groups,
    then for each group u64 mask, u16 number, 6 reserved bytes. Threads are numbered ``64 * group + bit``.
    """
    found: list[tuple[int, tuple[int, ...]]] = []
    at = 0
    while at + 32 <= len(records):
        relation, size, _, efficiency = struct.unpack_from("<IIBB", records, at)
        (n_groups,) = struct.unpack_from("<H", records, at + 30)
        if relation == 0 and 32 + 16 * n_groups <= size <= len(records) - at:
            groups = [struct.unpack_from("<QH", records, at + 32 + 16 * i) for i in range(n_groups)]
            found.append(
                (efficiency, tuple(64 * group + bit for mask, group in groups for bit in range(64) if mask >> bit & 1))
            )
        at += max(size, 8)
    top = max((efficiency for efficiency, _ in found), default=0)
    return tuple(Core("performance" if efficiency == top else "efficiency", threads) for efficiency, threads in found)


# ---- everywhere


def _plain_cores() -> tuple[Core, ...]:
    """Counts without kinds, where the system tells no more."""
    import psutil

    n_logical = os.cpu_count() or 1
    return numbered([("performance", psutil.cpu_count(logical=False) or n_logical, n_logical)])


def _model() -> str:
    """The processor's name as its maker or the board's maker writes it."""
    name = ""
    if sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string").rstrip(b"\0").decode(errors="replace")
    elif sys.platform == "win32":
        import winreg

        with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _WINDOWS_CPU) as key:
            name = str(winreg.QueryValueEx(key, "ProcessorNameString")[0])
    else:
        name = linux_model(_ROOT)
    return " ".join(name.split()) or platform.processor() or "unknown"


_WINDOWS_CPU = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"


def linux_model(root: Path) -> str:
    """``model name`` of /proc/cpuinfo; on ARM boards, which have none there, the name of the board."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "cpu model") and value.strip():
            return value.strip()
    return _text(root / "proc/device-tree/model")
