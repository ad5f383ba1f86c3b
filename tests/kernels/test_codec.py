"""Arrays to blocks and back: shapes, threads, and what is refused with which words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer import kernels
from edgeinfer.errors import BackendUnavailable, UsageError
from edgeinfer.kernels import library
from edgeinfer.kernels.formats import FORMATS, BlockFormat

ALL = pytest.mark.parametrize("kind", FORMATS.values(), ids=list(FORMATS))


def normal(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal(shape, np.float32)


@ALL
@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 3), (0,), (2, 0, 3)])
def test_shapes_carry_over(kind: type[BlockFormat], lead: tuple[int, ...]) -> None:
    blocks = kernels.quantize(kind.name, normal(*lead, 512))
    assert blocks.shape == (*lead, 512 // kind.block_size * kind.block_bytes)
    assert blocks.dtype == np.uint8
    back = kernels.dequantize(kind.name, blocks)
    assert back.shape == (*lead, 512)
    assert back.dtype == np.float32


@ALL
def test_rows_one_by_one(kind: type[BlockFormat]) -> None:
    blocks = kernels.quantize(kind.name, normal(5, 512))
    values = np.full((5, 512), np.nan, np.float32)
    decode = kernels.row_decoder(kind.name, 512)
    for i in range(5):
        decode(blocks[i].ctypes.data, values[i].ctypes.data)
    np.testing.assert_array_equal(values, kernels.dequantize(kind.name, blocks))
    with pytest.raises(UsageError, match="must be one of"):
        kernels.row_decoder("Q9_9", 512)
    if kind.block_size > 1:
        with pytest.raises(UsageError, match=f"multiple of {kind.block_size}"):
            kernels.row_decoder(kind.name, 512 + kind.block_size // 2)


def test_empty_rows_have_no_blocks() -> None:
    assert kernels.quantize("Q4_K", np.empty((3, 0), np.float32)).shape == (3, 0)
    assert kernels.dequantize("Q4_K", np.empty((3, 0), np.uint8)).shape == (3, 0)


@ALL
def test_threads_and_layout_do_not_matter(kind: type[BlockFormat]) -> None:
    values = normal(700, 512)
    blocks = kernels.quantize(kind.name, values, n_threads=1)
    for n_threads in (2, 3, None):
        np.testing.assert_array_equal(kernels.quantize(kind.name, values, n_threads=n_threads), blocks)
        np.testing.assert_array_equal(
            kernels.dequantize(kind.name, blocks, n_threads=n_threads), kernels.dequantize(kind.name, blocks)
        )
    np.testing.assert_array_equal(kernels.quantize(kind.name, np.asfortranarray(values)), blocks)
    np.testing.assert_array_equal(kernels.quantize(kind.name, values[::-1])[::-1], blocks)
    np.testing.assert_array_equal(kernels.dequantize(kind.name, blocks[:, ::-1][:, ::-1]).shape, values.shape)


def test_half_precision_is_widened() -> None:
    values = normal(4, 64).astype(np.float16)
    np.testing.assert_array_equal(kernels.quantize("Q8_0", values), kernels.quantize("Q8_0", values.astype(np.float32)))


def test_importance_moves_the_error_to_where_it_counts_less() -> None:
    values, importance = normal(8, 512), np.ones(512, np.float32)
    importance[::2] = 100
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"):
        errors = [
            (kernels.dequantize(name, kernels.quantize(name, values, importance=chosen))[:, ::2] - values[:, ::2])
            for chosen in (None, importance)
        ]
        assert np.square(errors[1]).mean() < np.square(errors[0]).mean()


def test_importance_of_nothing_is_none_and_its_unit_does_not_matter() -> None:
    values, importance = normal(4, 512), np.abs(normal(512))
    plain = kernels.quantize("Q4_K", values)
    np.testing.assert_array_equal(kernels.quantize("Q4_K", values, importance=np.zeros(512, np.float32)), plain)
    weighted = kernels.quantize("Q4_K", values, importance=importance)
    np.testing.assert_array_equal(kernels.quantize("Q4_K", values, importance=importance * np.float32(2**40)), weighted)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("Q4_2", normal(1, 32), "format is 'Q4_2', but must be one of BF16, F16, IQ4_NL, Q4_0"),
        ("Q4_K", normal(2, 32), r"values are \(2, 32\), but the last axis must be a multiple of 256 elements for Q4_K"),
        ("Q4_0", np.float32(1).reshape(()), r"values are \(\), but the last axis"),
        ("Q4_0", normal(1, 32).astype(np.float64), "values are float64, but must be float32 or float16"),
    ],
)
def test_wrong_values_are_named(name: str, values: npt.NDArray[np.float32], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        kernels.quantize(name, values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [kind.name for kind in FORMATS.values() if not kind.special])
def test_what_is_no_number_is_refused_with_its_place(name: str, bad: float) -> None:
    values = normal(600, 512)
    values[417, 300] = bad
    values[500, 2] = bad
    with pytest.raises(UsageError, match=f"values have {bad} at row 417, column 300, which {name} cannot hold"):
        kernels.quantize(name, values)


@pytest.mark.parametrize("peak", [1e10, 3e38])
@pytest.mark.parametrize("name", [kind.name for kind in FORMATS.values() if not kind.special])
def test_what_is_too_large_is_refused(name: str, peak: float) -> None:
    values = normal(3, 512)
    values[2, 511] = -peak
    with pytest.raises(UsageError, match="in row 2, which is too large for the half-precision scales of"):
        kernels.quantize(name, values)


@pytest.mark.parametrize(
    ("name", "importance", "words"),
    [
        ("Q8_0", np.ones(256, np.float32), "Q8_0 rounds to nearest and has no use for importance; IQ4_NL, Q4_0"),
        ("Q4_K", np.ones(32, np.float32), r"importance is float32 \(32,\), but must be float32 \(256,\)"),
        ("Q4_K", np.ones(256), r"importance is float64 \(256,\), but must be float32"),
        ("Q4_K", np.full(256, np.nan, np.float32), "importance must be finite and not negative"),
        ("Q4_K", np.full(256, -1, np.float32), "importance must be finite and not negative"),
    ],
)
def test_wrong_importance_is_named(name: str, importance: npt.NDArray[np.float32], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        kernels.quantize(name, normal(2, 256), importance=importance)


def test_wrong_blocks_are_named() -> None:
    with pytest.raises(UsageError, match=r"blocks are \(2, 143\), but the last axis must be a multiple of 144 bytes"):
        kernels.dequantize("Q4_K", np.zeros((2, 143), np.uint8))
    with pytest.raises(UsageError, match="blocks are int8, but must be uint8"):
        kernels.dequantize("Q4_K", np.zeros((2, 144), np.int8))
    with pytest.raises(UsageError, match="n_threads is 0, but must be at least 1"):
        kernels.dequantize("Q4_K", np.zeros((2, 144), np.uint8), n_threads=0)


def test_without_the_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "try_load", lambda: "the kernel library is on holiday")
    with pytest.raises(BackendUnavailable, match="on holiday"):
        kernels.quantize("Q8_0", normal(1, 32))
    with pytest.raises(BackendUnavailable, match="on holiday"):
        kernels.dequantize("Q8_0", np.zeros((1, 34), np.uint8))
