"""One matrix product, one quantization of activations, one attention, each on made-up data: what is timed.

A case is set up once and run with any instruction set and any number of columns M. Before it is timed, its result is
compared with the scalar kernel's, bit for bit: a speed of wrong answers is worth nothing. Knows no limits, no shares.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import EngineError
from edgeinfer.gguf import TensorType
from edgeinfer.kernels.codec import quantize
from edgeinfer.kernels.library import load
from edgeinfer.kernels.timing import rate

__all__ = ["Attention", "Case", "Matmul", "Quantize", "Sizes", "Speed"]

Bytes = npt.NDArray[np.uint8]
_SCALAR = 0
_CALL_S = 1e-3
_PANEL_ROWS = 16
_SAMPLE_PANELS = 4
_BLOCK_BYTES = 256 << 10  # panels of one call that are used again for each group of columns: they stay near the core
_MOST_ROWS = 64  # of queries that share one reading of keys and values, as under llama.cpp


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured. ``memory_bytes``: the matrix, and the keys and values: more than the caches hold, so that few
    columns wait for memory. ``columns``: the values of M. ``n_cols``: the length of a row, a multiple of 256.
    ``n_floats``: what one quantization covers. ``seconds``: for each figure."""

    memory_bytes: int = 128 << 20
    columns: tuple[int, ...] = (1, 2, 4, 8, 16, 128)
    n_cols: int = 1536
    n_floats: int = 256 << 10
    n_kv: int = 4096
    head_dim: int = 128
    n_kv_heads: int = 2
    n_group: int = 6
    seconds: float = 0.08


@dataclass(frozen=True, slots=True)
class Speed:
    """``bytes_per_s``: of weights, of keys and values, or of floats that are quantized, each counted once for M
    columns. ``ops_per_s``: two a multiply-accumulate; None where there are none to speak of."""

    bytes_per_s: float
    ops_per_s: float | None


class Case(Protocol):
    """Something to time."""

    op: str
    format: str

    def kernel_isa(self, isa: int) -> int:
        """The instruction set whose kernel runs when ``isa`` is asked for; -1 without one."""
        ...

    def run(self, isa: int, m: int) -> Speed:
        """Time it with ``m`` columns. Raises `EngineError` where the bits are not those of the scalar kernel."""
        ...


def _aligned(n_bytes: int) -> Bytes:
    """Bytes that begin at a multiple of 64, as kernels want them."""
    raw = np.zeros(n_bytes + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    return raw[begin : begin + n_bytes]


def _check(found: Bytes | npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], what: str) -> None:
    if found.tobytes() != wanted.tobytes():
        raise EngineError(f"{what} gives other bits than the scalar kernel; EDGEINFER_KERNELS=0 does without ours")


def _what(case: Case, isa: int, m: int) -> str:
    name: bytes = load().ei_isa_name(isa)
    return f"the {name.decode()} kernel of {case.op} {case.format} at M = {m}"


class _Columns:
    """Columns of floats, and memory for what becomes of them with one format."""

    def __init__(self, type_id: int, n_cols: int, n_columns: int) -> None:
        self._type, self._n_cols = type_id, n_cols
        self._x = np.random.default_rng(1).standard_normal((n_columns, n_cols), np.float32)
        self.activations = _aligned(load().ei_activation_bytes(type_id, n_cols, n_columns))

    def quantize(self, isa: int, m: int) -> None:
        library, n_items = load(), load().ei_n_quantize_items(self._type, self._n_cols, m)
        x, to = self._x.ctypes.data, self.activations.ctypes.data
        library.ei_quantize(isa, self._type, x, self._n_cols, self._n_cols, m, to, 0, n_items)


class Matmul:
    """y = W x with a W of ``memory_bytes`` that begins again at its end."""

    op = "matmul"

    def __init__(self, kind: TensorType, sizes: Sizes, n_threads: int) -> None:
        library = load()
        self.format, self._type, self._sizes, self._n_threads = kind.name, kind.id, sizes, n_threads
        self._columns = _Columns(kind.id, sizes.n_cols, max(sizes.columns))
        n_rows = _SAMPLE_PANELS * _PANEL_ROWS
        # Whatever field these bytes are of, it is a plain number: no half or single of them is tiny, infinite or NaN.
        row_bytes = sizes.n_cols // kind.block_size * kind.block_bytes
        rows = np.random.default_rng(0).integers(0, 64, (n_rows, row_bytes), np.uint8) | np.uint8(16)
        self._panel_bytes: int = library.ei_packed_bytes(kind.id, _PANEL_ROWS, sizes.n_cols)
        sample = _aligned(_SAMPLE_PANELS * self._panel_bytes)
        library.ei_pack(
            kind.id, rows.ctypes.data, row_bytes, n_rows, sizes.n_cols, sample.ctypes.data, 0, _SAMPLE_PANELS
        )
        n_copies = -(-sizes.memory_bytes // sample.nbytes)
        n_copies += -n_copies % n_threads
        self._n_panels = n_copies * _SAMPLE_PANELS
        self._packed = _aligned(n_copies * sample.nbytes)
        self._packed.reshape(n_copies, -1)[:] = sample
        self._wanted = self._sample(_SCALAR, max(sizes.columns))

    def kernel_isa(self, isa: int) -> int:
        return int(load().ei_matmul_isa(self._type, isa))

    def _sample(self, isa: int, m: int) -> npt.NDArray[np.float32]:
        out = np.empty((m, _SAMPLE_PANELS * _PANEL_ROWS), np.float32)
        self._columns.quantize(isa, m)
        self._call(isa, m, 0, _SAMPLE_PANELS, out)
        return out

    def _call(self, isa: int, m: int, first: int, n: int, out: npt.NDArray[np.float32]) -> None:
        """The ``n`` panels from ``first`` on as a matrix of their own."""
        at = self._packed.ctypes.data + first * self._panel_bytes
        n_cols, x, n_rows = self._sizes.n_cols, self._columns.activations.ctypes.data, n * _PANEL_ROWS
        load().ei_matmul(isa, self._type, at, n_rows, n_cols, x, m, out.ctypes.data, n_rows, 0, n)

    def run(self, isa: int, m: int) -> Speed:
        _check(self._sample(isa, m), self._wanted[:m], _what(self, isa, m))
        share = self._n_panels // self._n_threads
        chunk = min(self._chunk(isa, m), share)
        outs = [np.empty((m, chunk * _PANEL_ROWS), np.float32) for _ in range(self._n_threads)]

        def work(thread: int, n_calls: int) -> int:
            self._call(isa, m, thread * share + n_calls * chunk % (share // chunk * chunk), chunk, outs[thread])
            return chunk

        panels = rate(work, self._n_threads, self._sizes.seconds)
        return Speed(panels * self._panel_bytes, panels * 2 * _PANEL_ROWS * self._sizes.n_cols * m)

    def _chunk(self, isa: int, m: int) -> int:
        """Panels of one call."""
        out = np.empty((m, _SAMPLE_PANELS * _PANEL_ROWS), np.float32)
        begin = time.perf_counter()
        self._call(isa, m, 0, _SAMPLE_PANELS, out)
        wanted = int(_CALL_S / (time.perf_counter() - begin) * _SAMPLE_PANELS)
        return max(1, wanted if m <= 16 else min(wanted, _BLOCK_BYTES // self._panel_bytes))


class Quantize:
    """Activations for one format, by one thread from its caches: what a model quantizes at a time is little."""

    op = "quantize"

    def __init__(self, kind: TensorType, sizes: Sizes) -> None:
        self.format, self._type, self._sizes = kind.name, kind.id, sizes

    def kernel_isa(self, isa: int) -> int:
        return int(load().ei_quantize_isa(self._type, isa))

    def run(self, isa: int, m: int) -> Speed:
        n_cols = max(256, self._sizes.n_floats // m // 256 * 256)
        columns = _Columns(self._type, n_cols, m)

        def work(_thread: int, _n_calls: int) -> int:
            columns.quantize(isa, m)
            return n_cols * m * 4

        return Speed(rate(work, 1, self._sizes.seconds / 2), None)


class _Arguments(ctypes.Structure):
    """``ei_attention_args``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "mask", "out")),
        *((name, ctypes.c_size_t) for name in ("q_token", "q_head", "k_cell", "k_head", "v_cell", "v_head")),
        *((name, ctypes.c_size_t) for name in ("mask_token", "out_token", "out_head")),
        *((name, ctypes.c_int64) for name in ("n_kv", "head_dim")),
        ("n_group", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class _Unit(ctypes.Structure):
    """``ei_attention_unit``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kv_head", "first_token", "n_tokens", "first_head", "n_heads")),
        ("scratch", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("part", "n_parts", "step")),
    )


class Attention:
    """M tokens over the caches of many layers, ``memory_bytes`` together, one after the other."""

    op, formats = "attention", ("F16", "Q8_0")

    def __init__(self, kind: TensorType, sizes: Sizes, n_threads: int) -> None:
        self.format, self._type = kind.name, kind.id
        self._sizes, self._n_threads, m = sizes, n_threads, max(sizes.columns)
        self._head_bytes = sizes.head_dim // kind.block_size * kind.block_bytes
        width, n_heads = sizes.n_kv_heads * sizes.head_dim, sizes.n_kv_heads * sizes.n_group
        self._n_layers = max(1, sizes.memory_bytes // (2 * sizes.n_kv * sizes.n_kv_heads * self._head_bytes))
        random = np.random.default_rng(2)
        # Keys and values of one layer, and of all of them.
        one = quantize(kind.name, random.standard_normal((2, sizes.n_kv, width), np.float32), n_threads=n_threads)
        self._caches = np.broadcast_to(one, (self._n_layers, *one.shape)).copy()
        self._q = random.standard_normal((m, n_heads, sizes.head_dim), np.float32)
        self._mask = np.zeros((m, sizes.n_kv), np.float16)
        self._block = max(1, _MOST_ROWS // sizes.n_group)
        n_bytes = load().ei_attention_scratch_bytes(sizes.n_kv, sizes.head_dim, self._block, sizes.n_group, 1)
        self._outs = [np.zeros_like(self._q) for _ in range(n_threads)]
        self._scratch = [_aligned(n_bytes) for _ in range(n_threads)]
        self._calls = [[self._arguments(layer, out) for out in self._outs] for layer in range(self._n_layers)]
        self._wanted = self._sample(_SCALAR, min(m, self._block))

    def kernel_isa(self, isa: int) -> int:
        return int(load().ei_attention_isa(self._type, isa))

    def _arguments(self, layer: int, out: npt.NDArray[np.float32]) -> _Arguments:
        keys, values = self._caches[layer]
        head, stored = 4 * self._sizes.head_dim, self._head_bytes
        cell, token = self._sizes.n_kv_heads * stored, self._q.strides[0]
        return _Arguments(
            *(data.ctypes.data for data in (self._q, keys, values, self._mask, out)),
            *(token, head, cell, stored, cell, stored, self._mask.strides[0], token, head),
            *(self._sizes.n_kv, self._sizes.head_dim, self._sizes.n_group, self._sizes.head_dim**-0.5),
        )

    def _call(self, isa: int, layer: int, thread: int, kv_head: int, first: int, n: int) -> None:
        unit = _Unit(kv_head, first, n, 0, self._sizes.n_group, self._scratch[thread].ctypes.data, 0, 1, 0)
        load().ei_attention(isa, self._type, ctypes.byref(self._calls[layer][thread]), ctypes.byref(unit))

    def _sample(self, isa: int, n: int) -> npt.NDArray[np.float32]:
        self._call(isa, 0, 0, 0, 0, n)
        found: npt.NDArray[np.float32] = self._outs[0][:n, : self._sizes.n_group].copy()
        return found

    def run(self, isa: int, m: int) -> Speed:
        n_sample = min(m, self._block)
        _check(self._sample(isa, n_sample), self._wanted[:n_sample], _what(self, isa, m))
        sizes, n_blocks = self._sizes, -(-m // self._block)

        def work(thread: int, n_calls: int) -> int:
            item = n_calls * self._n_threads + thread
            first, head = item % n_blocks * self._block, item // n_blocks
            n = min(self._block, m - first)
            self._call(isa, head // sizes.n_kv_heads % self._n_layers, thread, head % sizes.n_kv_heads, first, n)
            return n

        tokens = rate(work, self._n_threads, sizes.seconds)  # of one KV head
        ops = 4 * sizes.n_kv * sizes.head_dim * sizes.n_group
        return Speed(tokens / m * 2 * sizes.n_kv * self._head_bytes, tokens * ops)
