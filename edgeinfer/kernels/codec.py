"""Arrays of floats to blocks of a format and back, by the C++ library in several threads. What the blocks hold is
said by the class of each format in `edgeinfer.kernels.formats`."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from edgeinfer.device import default_threads
from edgeinfer.errors import UsageError
from edgeinfer.kernels.formats import FORMATS, BlockFormat
from edgeinfer.kernels.library import load

_PIECE = 1 << 16  # elements that are worth a thread's while

Values = npt.NDArray[np.float32] | npt.NDArray[np.float16]


def quantize(
    format: str,
    values: Values,
    *,
    importance: npt.NDArray[np.float32] | None = None,
    n_threads: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Quantize floats to blocks of ``format``, such as "Q4_K", as they lie in a GGUF file.

    ``values`` is float32 or float16 ``(..., n_cols)``; the last axis is a row, whose length is a multiple of the
    format's block size (1 for F16 and BF16, 32, or 256 for Q4_K, Q5_K and Q6_K). Answers uint8 ``(..., n_bytes)``: for
    the same values the same bytes on every machine, and those that gguf-py gives for all formats that it writes.

    ``importance`` ``(n_cols,)``, not negative, says how much the square of an error in each column counts, such as the
    mean square of the activations that meet it. Q4_K, Q5_K, Q6_K and IQ4_NL search for the scales of least error; the
    other formats round to nearest and refuse it.

    Raises `UsageError` for an unknown format, a wrong shape or dtype, and for a row that the format cannot hold: NaN or
    infinity, or values whose scale is beyond half precision. F16 and BF16 hold every value (65520 and more is infinite
    in F16). Raises `BackendUnavailable` without the library.
    """
    kind = find_format(format)
    if values.dtype not in (np.float32, np.float16):
        raise UsageError(f"values are {values.dtype}, but must be float32 or float16")
    n_cols = _row_length(values.shape, "values", kind.block_size, kind)
    weights = None if importance is None else _weights(importance, n_cols, kind)
    rows = np.ascontiguousarray(values, np.float32).reshape(math.prod(values.shape[:-1]), n_cols)
    blocks = np.empty((len(rows), n_cols // kind.block_size * kind.block_bytes), np.uint8)
    library = load()

    def encode(first: int, n_rows: int) -> int:
        done: int = library.ei_encode(
            kind.id,
            rows[first:].ctypes.data,
            n_rows,
            n_cols,
            None if weights is None else weights.ctypes.data,
            blocks[first:].ctypes.data,
        )
        return first + done if done < n_rows else -1

    failed = min((row for row in _share(encode, len(rows), n_cols, n_threads) if row >= 0), default=None)
    if failed is not None:
        raise UsageError(_why(kind, rows[failed], failed))
    return blocks.reshape(*values.shape[:-1], blocks.shape[1])


def dequantize(format: str, blocks: npt.NDArray[np.uint8], *, n_threads: int | None = None) -> npt.NDArray[np.float32]:
    """The values that blocks of ``format`` stand for, as gguf-py gives them.

    ``blocks`` is uint8 ``(..., n_bytes)``, each row a whole number of blocks; the answer is float32 ``(..., n_cols)``.
    Raises `UsageError` for an unknown format, a wrong shape or dtype; any bytes are blocks, and a scale that is NaN
    gives NaN. Raises `BackendUnavailable` without the library.
    """
    kind = find_format(format)
    if blocks.dtype != np.uint8:
        raise UsageError(f"blocks are {blocks.dtype}, but must be uint8")
    n_bytes = _row_length(blocks.shape, "blocks", kind.block_bytes, kind)
    rows = np.ascontiguousarray(blocks).reshape(math.prod(blocks.shape[:-1]), n_bytes)
    n_cols = n_bytes // kind.block_bytes * kind.block_size
    values = np.empty((len(rows), n_cols), np.float32)
    library = load()

    def decode(first: int, n_rows: int) -> int:
        return int(library.ei_decode(kind.id, rows[first:].ctypes.data, n_rows, n_cols, values[first:].ctypes.data))

    _share(decode, len(rows), n_cols, n_threads)
    return values.reshape(*blocks.shape[:-1], n_cols)


def row_decoder(format: str, n_cols: int) -> Callable[[int, int], object]:
    """`dequantize` for one row of ``n_cols`` at a time, where a row is all there is to do and arrays would cost more
    than it: a function of the addresses of its blocks and of room for its floats, which checks nothing. Raises
    as `dequantize`."""
    kind = find_format(format)
    _row_length((n_cols,), "values", kind.block_size, kind)
    decode = load().ei_decode
    return lambda blocks, values: decode(kind.id, blocks, 1, n_cols, values)


def find_format(name: str) -> type[BlockFormat]:
    """The class of a format. Raises `UsageError` with the names there are."""
    kind = FORMATS.get(name)
    if kind is None:
        raise UsageError(f"format is {name!r}, but must be one of {', '.join(FORMATS)}")
    return kind


def _row_length(shape: tuple[int, ...], what: str, multiple: int, kind: type[BlockFormat]) -> int:
    if not shape or shape[-1] % multiple:
        unit = "elements" if what == "values" else "bytes"
        raise UsageError(
            f"{what} are {shape}, but the last axis must be a multiple of {multiple} {unit} for {kind.name}"
        )
    return shape[-1]


def _weights(
    importance: npt.NDArray[np.float32], n_cols: int, kind: type[BlockFormat]
) -> npt.NDArray[np.float32] | None:
    """Importance with 1 for the greatest; None where all are 0."""
    if not kind.weighs:
        names = ", ".join(other.name for other in FORMATS.values() if other.weighs)
        raise UsageError(f"{kind.name} rounds to nearest and has no use for importance; {names} have")
    if importance.shape != (n_cols,) or importance.dtype != np.float32:
        raise UsageError(f"importance is {importance.dtype} {importance.shape}, but must be float32 ({n_cols},)")
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise UsageError("importance must be finite and not negative")
    most = importance.max(initial=0)
    return np.ascontiguousarray(importance / most) if most > 0 else None


def _share(work: Callable[[int, int], int], n_rows: int, n_cols: int, n_threads: int | None) -> list[int]:
    """What ``work(first_row, n_rows)`` answers for pieces of the rows. ctypes lets go of Python's lock meanwhile."""
    if n_threads is not None and n_threads < 1:
        raise UsageError(f"n_threads is {n_threads}, but must be at least 1")
    if n_rows * n_cols < 2 * _PIECE:
        return [work(0, n_rows)]
    threads = n_threads or default_threads()
    # A few pieces for each thread, so that none waits long for the last.
    step = max(1, -(-_PIECE // max(1, n_cols)), -(-n_rows // (4 * threads)))
    pieces = [(first, min(step, n_rows - first)) for first in range(0, n_rows, step)]
    if threads == 1:
        return [work(first, n) for first, n in pieces]
    with ThreadPoolExecutor(min(threads, len(pieces))) as pool:
        return list(pool.map(lambda piece: work(*piece), pieces))


def _why(kind: type[BlockFormat], row: npt.NDArray[np.float32], number: int) -> str:
    wrong = np.flatnonzero(~np.isfinite(row))
    if wrong.size:
        return f"values have {row[wrong[0]]} at row {number}, column {wrong[0]}, which {kind.name} cannot hold"
    peak = float(np.abs(row).max())
    return f"values reach {peak:.3g} in row {number}, which is too large for the half-precision scales of {kind.name}"
