"""The formats' specification against gguf-py, and the C++ against the specification: bit for bit."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import quants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.rows_of_weights import KINDS, Floats, make, rows
from llama_cpp import llama_cpp as binding

from edgeinfer import kernels
from edgeinfer.errors import UsageError
from edgeinfer.kernels.formats import FORMATS, BlockFormat

Bytes = npt.NDArray[np.uint8]
# The machine that runs the tests may be busy.
patient = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
ALL = pytest.mark.parametrize("kind", FORMATS.values(), ids=list(FORMATS))
ROUNDING = [kind for kind in FORMATS.values() if not kind.searches]
WEIGHING = [kind for kind in FORMATS.values() if kind.weighs]


def specified(kind: type[BlockFormat], values: Floats, importance: Floats | None = None) -> Bytes:
    weights = None
    if importance is not None:
        weights = np.broadcast_to(importance / importance.max(), values.shape).reshape(-1, kind.block_size)
    with np.errstate(invalid="ignore"):  # where a scale is infinite
        return kind.quantize_blocks(values.reshape(-1, kind.block_size), weights).reshape(len(values), -1)


def read_by_gguf(kind: type[BlockFormat], blocks: Bytes) -> Floats:
    data = blocks.view(np.float16) if kind.name == "F16" else blocks
    with np.errstate(all="ignore"):
        return np.asarray(quants.dequantize(data, gguf.GGMLQuantizationType[kind.name]), np.float32)


def one_nan(values: Floats) -> npt.NDArray[np.uint32]:
    """As bits, every NaN the same: which one it is differs between processors."""
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


def scales_invert(kind: type[BlockFormat], values: Floats) -> bool:
    """Whether 1 / scale is finite in every block; gguf-py converts infinity to an integer where it is not."""
    blocks = values.reshape(-1, kind.block_size)
    spread = blocks.max(1) - blocks.min(1) if kind.name.endswith("_1") else np.abs(blocks).max(1)
    return bool(((spread == 0) | (spread > 1e-35)).all())


@ALL
def test_the_format_is_ggufs(kind: type[BlockFormat]) -> None:
    number = gguf.GGMLQuantizationType[kind.name]
    assert (kind.id, (kind.block_size, kind.block_bytes)) == (number.value, gguf.GGML_QUANT_SIZES[number])


@pytest.mark.parametrize("kind", ROUNDING, ids=lambda kind: kind.name)
@patient
@given(data=st.data())
def test_blocks_are_those_of_gguf(kind: type[BlockFormat], data: st.DataObject) -> None:
    values = data.draw(rows(max(32, kind.block_size)))
    if not kind.special and not scales_invert(kind, values):
        return
    if kind.name.endswith("_1"):
        values = values + np.float32(0)  # of 0 and -0, NumPy's minimum is either
    with np.errstate(all="ignore"):
        theirs = quants.quantize(values, gguf.GGMLQuantizationType[kind.name]).view(np.uint8)
    np.testing.assert_array_equal(specified(kind, values), theirs)


@ALL
@patient
@given(data=st.data())
def test_cpp_writes_the_specified_blocks(kind: type[BlockFormat], data: st.DataObject) -> None:
    values = data.draw(rows(max(32, kind.block_size)))
    importance = None
    if kind.weighs and data.draw(st.booleans()):
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        importance = rng.gamma(0.5, 1.0, values.shape[1]).astype(np.float32)
        importance[: data.draw(st.sampled_from((0, 20, values.shape[1] - 1)))] = 0
    blocks = specified(kind, values, importance)
    with np.errstate(invalid="ignore"):
        fits = kind.special or np.isfinite(kind.dequantize_blocks(blocks.reshape(-1, kind.block_bytes))).all()
    if fits:
        np.testing.assert_array_equal(kernels.quantize(kind.name, values, importance=importance), blocks)
    else:
        with pytest.raises(UsageError, match="too large"):
            kernels.quantize(kind.name, values, importance=importance)


@ALL
@patient
@given(seed=st.integers(0, 2**32))
def test_any_bytes_are_read_alike(kind: type[BlockFormat], seed: int) -> None:
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4 * kind.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        here = kind.dequantize_blocks(blocks.reshape(-1, kind.block_bytes)).reshape(3, -1)
    np.testing.assert_array_equal(one_nan(here), one_nan(read_by_gguf(kind, blocks)))
    np.testing.assert_array_equal(one_nan(kernels.dequantize(kind.name, blocks)), one_nan(here))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_half_the_bits_keep_every_value(name: str) -> None:
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 65519.0, 65520.0, 3e38, 1e-45, -6e-8], np.float32)
    values = np.concatenate([special, np.arange(0, 1 << 32, 65537).astype(np.uint32).view(np.float32)])
    blocks = kernels.quantize(name, values)
    np.testing.assert_array_equal(blocks, specified(FORMATS[name], values[None])[0])
    back = kernels.dequantize(name, blocks)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    np.testing.assert_array_equal(kernels.quantize(name, back), blocks)


@ALL
@pytest.mark.parametrize("shape", KINDS)
def test_round_trip_is_near(kind: type[BlockFormat], shape: str) -> None:
    """Within the distance of two quants, or what 6-bit scales leave of it, at the largest value of the row."""
    values = make(shape, np.random.default_rng(1), (4, 512))
    back = kernels.dequantize(kind.name, kernels.quantize(kind.name, values))
    bits = {"F16": 10, "BF16": 7}.get(kind.name) or int(kind.name.removeprefix("I")[1])
    assert (np.abs(values - back).max(axis=1) <= np.abs(values).max(axis=1) * 2.2 / 2**bits + 1e-7).all()


def errors_of(kind: type[BlockFormat], values: Floats, importance: Floats | None) -> tuple[float, float]:
    """Weighted mean squared error of ours and of llama.cpp's quantizer."""
    write = binding._lib.ggml_quantize_chunk
    write.restype, void = ctypes.c_size_t, ctypes.c_void_p
    write.argtypes = [ctypes.c_int, void, void, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, void]
    ours = kernels.quantize(kind.name, values, importance=importance)
    theirs = np.empty_like(ours)
    weights = None if importance is None else importance.ctypes.data
    write(kind.id, values.ctypes.data, theirs.ctypes.data, 0, len(values), values.shape[1], weights)
    found = []
    for blocks in (ours, theirs):
        error = (kernels.dequantize(kind.name, blocks) - values).astype(np.float64) ** 2
        found.append(float((error if importance is None else error * importance).mean()))
    return found[0], found[1]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", ["normal", "heavy", "negative"])
@pytest.mark.parametrize("kind", WEIGHING, ids=lambda kind: kind.name)
def test_no_worse_than_llama_cpp(kind: type[BlockFormat], shape: str, weighted: bool) -> None:
    rng = np.random.default_rng(11)
    importance = rng.gamma(1.0, 1.0, 2048).astype(np.float32) if weighted else None
    ours, theirs = errors_of(kind, make(shape, rng, (32, 2048)), importance)
    assert ours <= 1.02 * theirs


@pytest.fixture(scope="module")
def models_rows(smollm2: Path) -> list[Floats]:
    """Some rows of three tensors, read once: gguf-py takes its time over the vocabulary."""
    names = ("token_embd.weight", "blk.3.ffn_down.weight", "blk.5.attn_v.weight")
    found = [entry for entry in gguf.GGUFReader(smollm2).tensors if entry.name in names]
    parts = [kernels.dequantize(entry.tensor_type.name, np.asarray(entry.data[:128])).reshape(-1) for entry in found]
    return [part[: part.size // 512 * 512].reshape(-1, 512).copy() for part in parts]


@pytest.mark.model
@pytest.mark.parametrize("kind", WEIGHING, ids=lambda kind: kind.name)
def test_no_worse_than_llama_cpp_on_a_models_rows(kind: type[BlockFormat], models_rows: list[Floats]) -> None:
    assert len(models_rows) == 3
    for values in models_rows:
        for importance in (None, np.random.default_rng(2).gamma(1.0, 1.0, 512).astype(np.float32)):
            ours, theirs = errors_of(kind, values, importance)
            assert ours <= 1.02 * theirs
