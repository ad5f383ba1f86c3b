"""Will it fit: what a model will take, from its header alone, against what this process may have.

The figures are peaks of resident memory of llama.cpp's CPU engine with this package around it (llama-cpp-python
0.3.36), held against measurement by `tests/test_memory.py`; those of ONNX packages are `edgeinfer.memory_onnx`'s.
Weights are not read, nothing is allocated.

Matrices are copied into a layout that suits the processor ("repacked"): by our kernels those of all types that they
have, by llama.cpp's some. Nothing reads the mapped originals again. Our kernels give their pages back one matrix after
the other (on Linux); llama.cpp leaves them, so that weights lie in memory twice until the system drops them. Where an
earlier load has left our layout in a file (`edgeinfer.packed`), that is mapped in place of the originals: as many
bytes, which the system can drop, and which processes with the same model share.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeinfer import described, device, kernels, memory_onnx, packed
from edgeinfer.coverage import has_our_operators, is_multiplied
from edgeinfer.described import Described
from edgeinfer.engines.base import EngineConfig
from edgeinfer.errors import InsufficientMemory
from edgeinfer.gguf import Dimensions, GGUFFile, TensorInfo
from edgeinfer.onnx.package import Package

__all__ = ["MemoryPlan", "available", "check", "kv_bytes", "plan", "repacked_bytes", "saved_bytes", "state_bytes"]

Verdict = Literal["fits", "pages", "too_big"]

_MIB = 1 << 20
_CELL_STEP = 256  # llama.cpp rounds contexts up to this
_KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32}

# Measured; see tests/test_memory.py for how.
_PROCESS_BYTES = 76 * _MIB  # Python, NumPy, llama.cpp's code, what draws a chat
_TOKEN_BYTES = 380  # for one token: llama.cpp's vocabulary twice, the engine's and the tokenizer's, and our own tables
_MERGE_BYTES = 360  # for one BPE merge, twice as well
_COMPUTE_BYTES = 4 * _MIB  # graph, thread pool, batch arrays
_FF_BUFFERS, _EMBD_BUFFERS = 3, 4  # float32 rows of each width that are alive at once, for one token of a batch


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that a model will take and may have.

    ``weights_bytes`` counts the mapped file and what of its repacked copies (``repacked_bytes``) is there besides.
    ``shared_bytes`` of it will be pages of a file, an image of packed weights included, which other processes share.
    ``scratch_bytes`` is all the rest: activations, logits, the vocabulary, Python itself. ``total_bytes`` is the peak
    resident size when memory is plentiful. ``available_bytes`` is what the process may have in all, its present use
    included. ``verdict``: ``fits``; ``pages`` when only the mapped weights exceed what is free, so that they are read
    from disk again and again; ``too_big`` otherwise. ``n_ctx_max``: the largest context, a multiple of 256 up to the
    trained one, that is not too big; 0 when none.
    """

    weights_bytes: int
    kv_bytes: int
    scratch_bytes: int
    total_bytes: int
    available_bytes: int
    verdict: Verdict
    n_ctx_max: int
    repacked_bytes: int = 0
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Need:
    """The parts of a plan that do not depend on what is free. ``twice``: bytes of weights that are in memory both as
    mapped and as repacked when most memory is in use."""

    mapped: int
    repacked: int
    twice: int
    kv: int
    scratch: int
    use_mmap: bool

    @property
    def weights(self) -> int:
        return self.mapped + self.twice

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.scratch

    def verdict(self, free: int, cap: int | None) -> Verdict:
        """Under a cap the resident size itself must stay below it: nothing makes the system page for a promise of
        ours."""
        if cap is not None and self.total > cap:
            return "too_big"
        if self.total - self.twice <= free:
            return "fits"
        if self.use_mmap and self.repacked + self.kv + self.scratch <= free:
            return "pages"
        return "too_big"


def plan(file: Described, config: EngineConfig, *, cap_bytes: int | None = None, saves: bool = False) -> MemoryPlan:
    """What ``file`` will take under ``config``, and whether it may. ``cap_bytes`` is the user's own limit on resident
    memory. ``saves``: whether states are saved and read back, which takes a copy of one at a time.

    Raises `FormatError` where the header does not say what is needed.
    """
    sizes = described.sizes(file)
    free = available()
    wanted = replace(config, n_ctx=config.n_ctx or sizes.n_ctx_train)
    need_of = _need_of(file, sizes, wanted, saves)
    need = need_of(wanted)
    n_ctx_max = _largest_context(sizes, wanted, need_of, free, cap_bytes)
    return MemoryPlan(
        weights_bytes=need.weights,
        kv_bytes=need.kv,
        scratch_bytes=need.scratch,
        total_bytes=need.total,
        available_bytes=free if cap_bytes is None else min(free, cap_bytes),
        verdict=need.verdict(free, cap_bytes),
        n_ctx_max=n_ctx_max,
        repacked_bytes=need.repacked if config.use_mmap else 0,
        shared_bytes=max(0, need.mapped - need.repacked) if config.use_mmap else 0,
    )


def _need_of(file: Described, sizes: Dimensions, config: EngineConfig, saves: bool) -> Callable[[EngineConfig], _Need]:
    if isinstance(file, Package):
        return functools.partial(_package_need, file, sizes, ours=has_our_operators(file, config), saves=saves)
    ready = config.kernels and config.use_mmap and kernels.expected().active and packed.ready(file.path)
    return functools.partial(_need, file, sizes, ready=ready, saves=saves)


def _package_need(package: Package, sizes: Dimensions, config: EngineConfig, *, ours: bool, saves: bool) -> _Need:
    found = memory_onnx.parts(package, sizes, config, ours=ours)
    state = found.kv // config.n_seq_max if saves else 0
    standing = _standing_bytes(described.vocabulary_file(package), sizes)
    return _Need(found.weights, found.fixed, 0, found.kv, standing + found.computing + state, True)


def check(file: Described, config: EngineConfig, *, cap_bytes: int | None = None, saves: bool = False) -> MemoryPlan:
    """`plan`, or `InsufficientMemory` with the numbers and the largest context that would do."""
    found = plan(file, config, cap_bytes=cap_bytes, saves=saves)
    if found.verdict != "too_big":
        return found
    limit = "--memory allows" if cap_bytes is not None and found.available_bytes == cap_bytes else "there is room for"
    if found.n_ctx_max:
        advice = f"a context of up to {found.n_ctx_max} tokens would fit (-c {found.n_ctx_max})"
    else:
        advice = "no context would fit; close other programs or take a smaller model"
    raise InsufficientMemory(
        f"{described.shown_name(file)} needs {_mib(found.total_bytes)} (weights {_mib(found.weights_bytes)}, context "
        f"{_mib(found.kv_bytes)}, working memory {_mib(found.scratch_bytes)}), but {limit} "
        f"{_mib(found.available_bytes)}; {advice}",
        found.n_ctx_max,
    )


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / _MIB:.0f} MiB"


# ---- what a model takes


def _cells(config: EngineConfig) -> int:
    cells = config.n_cells or config.n_ctx * config.n_seq_max
    return -(-cells // _CELL_STEP) * _CELL_STEP


def _need(file: GGUFFile, sizes: Dimensions, config: EngineConfig, *, ready: bool, saves: bool) -> _Need:
    """``ready``: what would be repacked lies so in a file, and is mapped. ``saves``: see `plan`."""
    copied = [] if ready else _repacked(file, config.kernels)
    repacked, twice = sum(copied), sum(copied)
    kv, computing = kv_bytes(sizes, config), _computing_bytes(sizes, config)
    if config.kernels and kernels.expected().active and sys.platform.startswith("linux"):
        # Only one at a time, and while the model loads: what a context takes later comes in its place.
        twice = max(0, max(copied, default=0) - kv - computing)
    return _Need(
        mapped=sum(tensor.n_bytes for tensor in file.tensors.values()),
        repacked=repacked,
        twice=twice if config.use_mmap else 0,
        kv=kv,
        scratch=_standing_bytes(file, sizes) + computing + (state_bytes(sizes, config) if saves else 0),
        use_mmap=config.use_mmap,
    )


def kv_bytes(sizes: Dimensions, config: EngineConfig) -> int:
    """Keys and values of every cell, and the recurrent state of every sequence. Sliding windows count in full: the
    engine keeps all of them, so that a sequence can be rewound. Encoders keep nothing."""
    if not sizes.causal:
        return 0
    row = sum(sizes.n_kv_heads) * (sizes.head_dim_k + sizes.head_dim_v)
    return int(_cells(config) * row * _KV_BYTES[config.kv_type]) + 4 * sizes.n_state * config.n_seq_max


def state_bytes(sizes: Dimensions, config: EngineConfig) -> int:
    """What a copy of the state of one sequence takes at most."""
    return kv_bytes(sizes, replace(config, n_seq_max=1, n_cells=0))


def saved_bytes(file: Described, config: EngineConfig) -> int:
    """`state_bytes` of a model, whatever its form."""
    if isinstance(file, Package):
        alone = replace(config, n_seq_max=1, n_cells=0)
        return memory_onnx.parts(file, described.sizes(file), alone, ours=has_our_operators(file, config)).kv
    return state_bytes(described.sizes(file), config)


def _standing_bytes(file: GGUFFile, sizes: Dimensions) -> int:
    """What is there before the weights are."""
    merges = file.metadata.count("tokenizer.ggml.merges")
    return _PROCESS_BYTES + _TOKEN_BYTES * sizes.n_vocab + _MERGE_BYTES * merges


def _computing_bytes(sizes: Dimensions, config: EngineConfig) -> int:
    """What a context takes besides its cache. An encoder reads a text in one pass, and writes a score for each head,
    token and position."""
    n_batch = min(config.n_batch if sizes.causal else max(config.n_batch, config.n_ctx), _cells(config))
    scores = 0 if sizes.causal else 4 * max(sizes.n_heads) * n_batch * n_batch
    width = max(sizes.n_embd, max(sizes.n_heads) * max(sizes.head_dim_k, sizes.head_dim_v))
    activations = 4 * n_batch * (_FF_BUFFERS * sizes.n_ff + _EMBD_BUFFERS * width)
    mask = 4 * n_batch * _cells(config)
    logits = 2 * 4 * config.n_seq_max * sizes.n_vocab  # in the graph, and handed out
    return _COMPUTE_BYTES + activations + mask + scores + logits


def repacked_bytes(file: GGUFFile, *, ours: bool = True) -> int:
    """Bytes of the matrices that will be copied into another layout on this machine. ``ours``: with our kernels, where
    they can be had."""
    return sum(_repacked(file, ours))


def _repacked(file: GGUFFile, ours: bool) -> list[int]:
    """Bytes of each such matrix."""
    types, rows = _repacked_types()
    active = ours and kernels.expected().active

    def copied(tensor: TensorInfo) -> bool:
        if active and kernels.has_matmul(tensor.type.id, tensor.shape[0]):
            return True
        return tensor.type.name in types and tensor.shape[1] % rows == 0

    return [tensor.n_bytes for tensor in file.tensors.values() if is_multiplied(tensor, file) and copied(tensor)]


@functools.cache
def _repacked_types() -> tuple[frozenset[str], int]:
    """Types that ggml repacks here, and what the number of rows must be a multiple of; as in its repack.cpp and
    amx.cpp."""
    features = _cpu_features()
    if platform.machine().lower() in ("arm64", "aarch64"):
        dotprod = "asimddp" in features or not features  # all but the oldest 64-bit ARM
        types = {"Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "Q8_0", "Q1_0"} if dotprod else set()
        return frozenset(types), 4
    types = {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"} if "avx2" in features or not features else set()
    if "avx512f" in features:
        types.add("Q2_K")
    if "amx_int8" in features:
        types |= {"Q4_1", "Q8_0", "Q5_K", "Q6_K", "IQ4_XS"}
    return frozenset(types), 8


def _cpu_features() -> frozenset[str]:
    """The processor's flags as Linux names them; empty where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return frozenset()


def _largest_context(
    sizes: Dimensions, config: EngineConfig, need_of: Callable[[EngineConfig], _Need], free: int, cap: int | None
) -> int:
    """Bisection over multiples of 256. Needs grow with the context, so the first that is too big ends it."""

    def good(steps: int) -> bool:
        n_ctx = steps * _CELL_STEP
        cells = config.n_cells * n_ctx // config.n_ctx if config.n_cells else 0
        return need_of(replace(config, n_ctx=n_ctx, n_cells=cells)).verdict(free, cap) != "too_big"

    low, high = 0, max(sizes.n_ctx_train, config.n_ctx) // _CELL_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low * _CELL_STEP


# ---- what there is


def available(root: Path = Path("/")) -> int:
    """Bytes that this process may have in all: what is free on the machine and inside every control group around us,
    plus what the process holds already. Memory that only caches files counts as free."""
    import psutil

    free = int(psutil.virtual_memory().available)
    if sys.platform.startswith("linux"):
        free = min([free, *(_group_free(folder) for folder in device.cgroup_folders("memory", root))])
    held = psutil.Process().memory_info()
    return max(0, free) + held.rss - getattr(held, "shared", 0)


def _group_free(folder: Path) -> int:
    """What a control group of either version still grants; a huge number without a limit."""
    unlimited = 1 << 62
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory.high", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None and limit < unlimited:
            unlimited = min(unlimited, limit - max(0, used - _file_cache(folder)))
    return unlimited


def _number(path: Path) -> int | None:
    """None for ``max`` and where there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return None


def _file_cache(folder: Path) -> int:
    """Bytes of the group's use that only cache files, which the system drops when it needs room."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            found[name] = int(value)
    prefix = "total_" if "total_inactive_file" in found else ""  # version 1 counts groups within apart
    return found.get(prefix + "inactive_file", 0) + found.get(prefix + "active_file", 0)
