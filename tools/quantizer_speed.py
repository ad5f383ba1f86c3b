"""Our quantizers beside llama.cpp's own, type by type: ``python tools/quantizer_speed.py MODEL.gguf [--threads N]``

Both get the same floats, the matrices of one model, in turn and in the same process and threads; of each the best of
some rounds counts. Beside the ratio of speeds stands what each costs: the relative squared error, weighted where
importance is given. Exits with 1 where ours is slower than --least times llama.cpp's, or further off.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgeinfer import catalog, gguf, kernels
from edgeinfer.converters.quantize.importance import Importance, read_importance
from edgeinfer.converters.quantize.ours import floats_of
from edgeinfer.gguf import TENSOR_TYPES
from edgeinfer.kernels.formats import FORMATS

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
IDS = {kind.name: kind for kind in TENSOR_TYPES.values()}
TOLERANCE = 1.0005
"""How much further off ours may be and still count as equal: rounding in another order."""


@dataclass(frozen=True, slots=True)
class Matrix:
    name: str
    values: Floats
    importance: Floats | None


def matrices(path: Path, importance: Importance | None, most: int) -> list[Matrix]:
    """Matrices of the first layers, up to so many weights."""
    found: list[Matrix] = []
    for tensor in gguf.read(path).tensors.values():
        if len(tensor.shape) != 2 or tensor.name == "token_embd.weight" or most <= 0:
            continue
        most -= tensor.n_elements
        weights = importance.of(tensor.name, tensor.shape[::-1]) if importance else None
        found.append(Matrix(tensor.name, np.concatenate([*floats_of(tensor)]), None if weights is None else weights[0]))
    return found


def theirs(name: str, matrix: Matrix, n_threads: int) -> Bytes:
    """llama.cpp's, its rows shared out among threads as its own tool does."""
    kind, (n_rows, n_cols) = IDS[name], matrix.values.shape
    row_bytes = n_cols // kind.block_size * kind.block_bytes
    blocks = np.empty((n_rows, row_bytes), np.uint8)
    pointer = ctypes.POINTER(ctypes.c_float)
    weights = None if matrix.importance is None else matrix.importance.ctypes.data_as(pointer)
    step = -(-n_rows // (4 * n_threads))

    def piece(first: int) -> None:
        n = min(step, n_rows - first)
        source = matrix.values[first:].ctypes.data_as(pointer)
        _quantize_chunk(kind.id, source, blocks[first:].ctypes.data, 0, n, n_cols, weights)

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(piece, range(0, n_rows, step)))
    return blocks


def ours(name: str, matrix: Matrix, n_threads: int) -> Bytes:
    weights = matrix.importance if FORMATS[name].weighs else None
    return kernels.quantize(name, matrix.values, importance=weights, n_threads=n_threads)


def cost(name: str, matrix: Matrix, blocks: Bytes) -> tuple[float, float]:
    """Weighted squares of errors, and of values."""
    weights = 1.0 if matrix.importance is None else matrix.importance / matrix.importance.mean()
    error = kernels.dequantize(name, blocks) - matrix.values
    return float((weights * error**2).sum()), float((weights * matrix.values**2).sum())


def _bound() -> Callable[..., int]:
    """ggml's function; libggml-base is among libllama's dependencies, which its handle finds."""
    function = llama_cpp.llama_cpp._lib.ggml_quantize_chunk
    pointer = ctypes.POINTER(ctypes.c_float)
    i64 = ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, ctypes.c_void_p, i64, i64, i64, pointer]
    function.restype = ctypes.c_size_t
    found: Callable[..., int] = function
    return found


_quantize_chunk = _bound()


def measure(name: str, found: list[Matrix], n_threads: int, rounds: int) -> dict[str, float]:
    """Both quantizers on all matrices whose rows suit."""
    fit = [matrix for matrix in found if matrix.values.shape[1] % IDS[name].block_size == 0]
    seconds = {"ours": 0.0, "theirs": 0.0}
    errors, power = {"ours": 0.0, "theirs": 0.0}, 0.0
    for matrix in fit:
        best = {"ours": float("inf"), "theirs": float("inf")}
        for _ in range(rounds):
            for who, quantizer in (("ours", ours), ("theirs", theirs)):
                started = time.perf_counter()
                blocks = quantizer(name, matrix, n_threads)
                best[who] = min(best[who], time.perf_counter() - started)
                if _ == 0:
                    error, square = cost(name, matrix, blocks)
                    errors[who] += error
                    power += square / 2
        for who in seconds:
            seconds[who] += best[who]
    n = sum(matrix.values.size for matrix in fit)
    return {
        "weights": n,
        "ours_mps": n / seconds["ours"] / 1e6 if n else 0.0,
        "theirs_mps": n / seconds["theirs"] / 1e6 if n else 0.0,
        "speedup": seconds["theirs"] / seconds["ours"] if n else 0.0,
        "error_ours": (errors["ours"] / power) ** 0.5 if n else 0.0,
        "error_theirs": (errors["theirs"] / power) ** 0.5 if n else 0.0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=16_000_000, help="weights to quantize")
    parser.add_argument("--least", type=float, default=3.0)
    parser.add_argument("--types", default=",".join(FORMATS))
    flags = parser.parse_args()
    importance = read_importance(flags.imatrix) if flags.imatrix else None
    found = matrices(catalog.resolve(flags.model).path, importance, flags.most)
    rows = {}
    print(f"{'type':8}{'weights':>10}{'ours M/s':>10}{'llama M/s':>10}{'ratio':>7}{'our error':>11}{'theirs':>11}")
    for name in flags.types.split(","):
        row = rows[name] = measure(name, found, flags.threads, flags.rounds)
        if row["weights"]:
            print(
                f"{name:8}{row['weights'] / 1e6:9.1f}M{row['ours_mps']:10.1f}{row['theirs_mps']:10.1f}"
                f"{row['speedup']:7.2f}{row['error_ours']:11.6f}{row['error_theirs']:11.6f}",
                flush=True,
            )
    print(json.dumps(rows))
    measured = [row for row in rows.values() if row["weights"]]
    return int(
        any(row["speedup"] < flags.least or row["error_ours"] > TOLERANCE * row["error_theirs"] for row in measured)
    )


if __name__ == "__main__":
    sys.exit(main())
