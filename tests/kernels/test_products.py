"""Every product kernel of this machine: the scalar kernel's bits for any shape, split and value; right numbers."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from products import FORMATS, Bytes, Floats, Matrix, isas, pack, product, same_bits
from tiny_models import TYPES, random_weights

from edgeinfer.gguf.formats import TENSOR_TYPES

VALUES = ("ordinary", "any bits", "extreme", "subnormal", "not finite")
FLOATS = ("F32", "F16", "BF16")
# Where the halves are, in bytes from the beginning of a block.
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def rows_of(name: str, n_rows: int, n_cols: int, values: str, rng: np.random.Generator) -> Bytes:
    """Weights as they lie in a file."""
    kind = TENSOR_TYPES[FORMATS[name]]
    ordinary = np.frombuffer(random_weights(name, (n_cols, n_rows), rng), np.uint8).reshape(-1, kind.block_bytes).copy()
    if values == "any bits":
        ordinary[:] = rng.integers(0, 256, ordinary.shape, np.uint8)
    elif values != "ordinary":
        # Some blocks, not all: what is strange in one must not reach the others' rows.
        strange = rng.random(len(ordinary)) < 0.3
        if values == "extreme":
            ordinary[strange] = rng.choice(np.array([0x00, 0x7B, 0xFB, 0xFF], np.uint8), (strange.sum(), 1))
        half = {"extreme": 0x7BFF, "subnormal": 0x0001, "not finite": 0x7C00}[values]
        for at in HALVES.get(name, (kind.block_bytes - 2 if name == "F32" else 0,)):
            ordinary[strange, at] = half & 0xFF
            ordinary[strange, at + 1] = half >> 8 | (rng.integers(0, 2, strange.sum(), np.uint8) << 7)
    rows: Bytes = ordinary.reshape(n_rows, -1)
    return rows


def columns_of(m: int, n_cols: int, values: str, rng: np.random.Generator) -> Floats:
    x = rng.standard_normal((m, n_cols)).astype(np.float32)
    if values == "any bits":
        return rng.integers(0, 1 << 32, x.shape, np.uint32).view(np.float32)
    strange = rng.random(x.shape) < 0.05
    if values == "extreme":
        x[strange] = rng.choice(np.array([1e38, -3.4e38, 1e-30, 127.0, -127.0, 0.5], np.float32), int(strange.sum()))
    elif values == "subnormal":
        x *= rng.choice(np.array([1e-44, 1e-39, 7.9e-31, 1.0, 0.0], np.float32), (m, 1))  # 7.9e-31: about 2^-100
    elif values == "not finite":
        x[strange] = rng.choice(np.array([np.inf, -np.inf, np.nan], np.float32), int(strange.sum()))
    return x


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.integers(1, 70),
    n_blocks=st.integers(1, 20),
    m=st.integers(1, 40),
    weights=st.sampled_from(VALUES),
    activations=st.sampled_from(VALUES),
    cuts=st.lists(st.integers(0, 1000), max_size=3),
    column_cuts=st.lists(st.integers(0, 1000), max_size=3),
    seed=st.integers(0, 1000),
)
def test_every_instruction_set_gives_the_scalar_kernels_bits(
    name: str,
    n_rows: int,
    n_blocks: int,
    m: int,
    weights: str,
    activations: str,
    cuts: list[int],
    column_cuts: list[int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    block = TENSOR_TYPES[FORMATS[name]].block_size
    n_cols = block * (n_blocks if block < 256 else (n_blocks + 1) // 2)
    matrix = Matrix(name, n_cols, rows_of(name, n_rows, n_cols, weights, rng))
    x = columns_of(m, n_cols, activations, rng)
    packed = pack(matrix)
    assert np.array_equal(pack(matrix, cuts).bytes, packed.bytes)
    wanted = product(matrix, packed, x, isas()["scalar"])
    for isa in isas().values():
        assert same_bits(product(matrix, packed, x, isa, column_cuts=column_cuts, cuts=cuts), wanted)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "F32"])
def test_every_half_as_a_scale(name: str) -> None:
    """All 65536 of them, once a block: zeros of both signs, subnormals, infinities and NaNs among them."""
    kind, rng = TENSOR_TYPES[FORMATS[name]], np.random.default_rng(1)
    n_cols = 64 if name in FLOATS else kind.block_size
    halves = np.arange(1 << 16, dtype=np.uint16)
    if name in FLOATS:
        rows = halves.view(np.uint8).reshape(-1, 2 * n_cols)
    else:
        rows = rng.integers(0, 256, (1 << 16, kind.block_bytes), np.uint8)
        for at in HALVES.get(name, (0,)):
            rows[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
            rng.shuffle(halves)
    matrix, x = Matrix(name, n_cols, rows), rng.standard_normal((2, n_cols)).astype(np.float32)
    packed = pack(matrix)
    wanted = product(matrix, packed, x, isas()["scalar"])
    assert np.isnan(wanted).any()
    assert np.isfinite(wanted).any()
    for isa in isas().values():
        assert same_bits(product(matrix, packed, x, isa), wanted)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q4_K", "Q6_K", "F32"])
def test_activations_of_every_size(name: str) -> None:
    """A block for each exponent of single precision, and the next float to either side of each power of two."""
    powers = np.concatenate([1 << np.arange(23), np.arange(1, 255) << 23]).astype(np.uint32)
    largest = np.concatenate([powers, powers - 1, powers + 1]).view(np.float32)
    rng = np.random.default_rng(2)
    n_cols = max(32, TENSOR_TYPES[FORMATS[name]].block_size)
    x = largest[:, None] * rng.uniform(-1, 1, (len(largest), n_cols)).astype(np.float32)
    x[:, 5] = largest
    matrix = Matrix(name, n_cols, rows_of(name, 20, n_cols, "ordinary", rng))
    packed = pack(matrix)
    wanted = product(matrix, packed, x, isas()["scalar"])
    for isa in isas().values():
        assert same_bits(product(matrix, packed, x, isa), wanted)


def quantized(x: Floats, size: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What the definition in core/formats.h makes of activations, and half a step of each."""
    blocks = x.astype(np.float64).reshape(len(x), -1, size)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    d = largest / 127
    return (np.rint(blocks / d) * d).reshape(x.shape), np.broadcast_to(d / 2, blocks.shape).reshape(x.shape)


@pytest.mark.parametrize("m", [1, 3, 8, 21])
@pytest.mark.parametrize("name", FORMATS)
def test_results_are_right(name: str, m: int) -> None:
    """Against weights as gguf's own reader has them, in double precision: all of the error is that of int8 activations,
    and to what those are, only roundings of single precision are left."""
    assert TYPES[name] == FORMATS[name]
    rng = np.random.default_rng(m)
    n_rows, n_cols = 45, 768
    rows = rows_of(name, n_rows, n_cols, "ordinary", rng)
    kind = gguf.GGMLQuantizationType(FORMATS[name])
    w = gguf.quants.dequantize(rows, kind).astype(np.float64)
    assert w.shape == (n_rows, n_cols)
    x = rng.standard_normal((m, n_cols)).astype(np.float32)
    exact = x.astype(np.float64) @ w.T
    seen, half_step = (
        (x.astype(np.float64), 0 * x) if name in FLOATS else quantized(x, TENSOR_TYPES[FORMATS[name]].block_size)
    )
    magnitude = np.abs(x) @ np.abs(w.T)
    for isa in isas().values():
        matrix = Matrix(name, n_cols, rows)
        y = product(matrix, pack(matrix), x, isa).astype(np.float64)
        # A value at a tie may round the other way in single precision; its step is then the whole difference.
        assert (np.abs(y - exact) <= half_step @ np.abs(w.T) * 1.001 + 1e-5 * magnitude).all()
        assert np.sqrt(np.mean((y - seen @ w.T) ** 2)) <= 2e-5 * np.mean(magnitude)
