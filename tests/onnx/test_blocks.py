"""GGUF blocks from the operands of MatMulNBits: the converter's way, back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_weights

from edgeinfer import kernels
from edgeinfer.converters.to_onnx import forms
from edgeinfer.converters.to_onnx.zero_points import shared_by_both
from edgeinfer.gguf.formats import TENSOR_TYPES
from edgeinfer.kernels.formats import FORMATS
from edgeinfer.onnx import blocks
from edgeinfer.onnx.blocks import Bytes, Floats, Operands, Unfit

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())

EXACT = ("Q4_0", "Q5_0", "Q8_0", "Q6_K", "IQ4_NL")
CORRECTED = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")


def operands(name: str, rows: Bytes) -> Operands:
    """What the converter writes for rows of blocks."""
    form, parts = forms.KEPT[name], forms.decoded(name, rows)
    offsets = doubt = None
    if parts.offsets is not None:
        q, scales = forms.quantize_offsets(parts.offsets, forms.CORRECTION_BLOCK)
        offsets = forms.restored_offsets(q, scales, forms.CORRECTION_BLOCK)
        doubt = np.repeat(scales, forms.CORRECTION_BLOCK, axis=1)[:, : offsets.shape[1]] * np.float32(0.5001)
    return Operands(form.bits, form.block, parts.q, parts.scales, offsets, doubt)


def values(name: str, rows: Bytes) -> Floats:
    kind = FORMATS[name]
    return kind.dequantize_blocks(rows.reshape(-1, kind.block_bytes)).reshape(len(rows), -1)


def stored(made: Operands) -> Floats:
    """The weights that operands stand for."""
    assert made.offsets is not None
    q = made.q.reshape(len(made.q), -1)
    if made.bits == 4:
        q = np.stack([q & 15, q >> 4], axis=2).reshape(len(q), -1)
    steps = q.astype(np.float32) - np.float32(8 if made.bits == 4 else 128)
    weights: Floats = steps * np.repeat(made.scales, made.block, axis=1) + np.repeat(made.offsets, 32, axis=1)
    return weights


def within_doubt(name: str, made: Operands) -> bool:
    assert made.doubt is not None
    wanted, found = stored(made), values(name, blocks.rebuild(name, made))
    rounding = np.float32(2.0**-11 if name.endswith("1") else 2.0**-20) * np.abs(wanted).max()  # of a least value
    return bool((np.abs(found - wanted) <= np.repeat(made.doubt, 32, axis=1) * 1.01 + rounding).all())


def quantized(name: str, n_rows: int, n_cols: int, seed: int) -> Bytes:
    x = np.random.default_rng(seed).standard_normal((n_rows, n_cols)).astype(np.float32)
    return np.asarray(kernels.quantize(name, x)).reshape(n_rows, -1)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n_rows=st.integers(1, 20), n_blocks=st.integers(1, 4), drawn=st.booleans())
def test_exact_forms_come_back_to_the_bit(name: str, seed: int, n_rows: int, n_blocks: int, drawn: bool) -> None:
    if drawn:
        rng = np.random.default_rng(seed)
        rows = np.frombuffer(random_weights(name, (256 * n_blocks, n_rows), rng), np.uint8).reshape(n_rows, -1)
    else:
        rows = quantized(name, n_rows, 256 * n_blocks, seed)
    found = blocks.rebuild(name, operands(name, rows))
    assert np.array_equal(values(name, found), values(name, rows))


def test_every_scale_of_a_super_block() -> None:
    """Scales of both signs, zero and -128 among them, under steps of both signs and of the smallest size."""
    rng = np.random.default_rng(1)
    rows = quantized("Q6_K", 64, 256, 1)
    rows[:, 192:208] = rng.integers(-128, 128, (64, 16), np.int8).view(np.uint8)
    rows[:8, 192:208] = 0
    rows[8:16, 192] = 0x80
    rows[:, 208:] = rng.choice(np.array([0x0001, 0x8003, 0x2411, 0xA7FF, 0x0000], np.uint16), 64)[:, None].view(
        np.uint8
    )
    assert np.array_equal(values("Q6_K", blocks.rebuild("Q6_K", operands("Q6_K", rows))), values("Q6_K", rows))


@pytest.mark.parametrize("name", CORRECTED)
@pytest.mark.parametrize("seed", range(4))
def test_least_values_are_within_the_rounding_of_the_offsets(name: str, seed: int) -> None:
    assert within_doubt(name, operands(name, quantized(name, 48, 1024, seed)))


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K"])
def test_super_blocks_with_what_is_rare(name: str) -> None:
    """Sub-blocks without a scale or a least value, whole blocks of zeros, integers that are not the greatest."""
    rng = np.random.default_rng(2)
    rows = quantized(name, 96, 512, 3).reshape(-1, TENSOR_TYPES[FORMATS[name].id].block_bytes)
    scales = rng.integers(0, 64, (len(rows), 12), np.uint8)
    scales[:20] = 0
    scales[20:40, 4:8] = 0
    scales[40:60] &= 0x07
    rows[:, 4:16] = scales
    rows[:10, :4] = 0
    assert within_doubt(name, operands(name, rows.reshape(96, -1)))


def changed(made: Operands, **parts: object) -> Operands:
    return Operands(**{**{name: getattr(made, name) for name in Operands.__slots__}, **parts})


@pytest.mark.parametrize(
    ("name", "what", "message"),
    [
        ("Q8_0", lambda m: changed(m, scales=m.scales * np.float32(1.0001)), "not of half precision"),
        ("Q8_0", lambda m: changed(m, scales=m.scales * np.float32(np.inf)), "not numbers"),
        ("Q5_0", lambda m: changed(m, q=m.q + np.uint8(17)), "the format does not have"),
        ("Q6_K", lambda m: changed(m, q=m.q + np.uint8(64)), "the format does not have"),
        ("Q6_K", lambda m: changed(m, scales=m.scales * np.float32(np.pi)), "no common step"),
        ("Q6_K", lambda m: changed(m, q=m.q[:, :15], scales=m.scales[:, :15]), "not whole super-blocks"),
        ("Q4_K", lambda m: changed(m, scales=m.scales * np.float32(np.pi)), "no common step"),
        ("Q4_K", lambda m: changed(m, offsets=np.abs(m.offsets) + 100), "no common step"),
        ("Q4_K", lambda m: changed(m, offsets=None), "no offsets"),
        ("Q4_1", lambda m: changed(m, offsets=m.offsets + np.float32(1e6)), "beyond half precision"),
        ("IQ4_NL", lambda m: changed(m, q=m.q + np.uint8(1)), "none of the format's sixteen"),
    ],
)
def test_operands_of_another_format(name: str, what: object, message: str) -> None:
    assert callable(what)
    with pytest.raises(Unfit, match=message):
        blocks.rebuild(name, what(operands(name, quantized(name, 4, 512, 1))))


def test_what_suits_no_super_block_still_suits_a_block() -> None:
    made = operands("Q4_K", quantized("Q4_K", 8, 512, 1))
    odd = changed(made, scales=made.scales * np.float32(1.001))
    assert blocks.candidates("Q4_K", 4, 32, corrected=True) == ("Q4_K", "Q4_1")
    with pytest.raises(Unfit):
        blocks.rebuild("Q4_K", odd)
    wanted = values("Q4_K", quantized("Q4_K", 8, 512, 1))
    assert np.abs(values("Q4_1", blocks.rebuild("Q4_1", odd)) - wanted).max() < 0.03 * np.abs(wanted).max()


@pytest.mark.parametrize("name", blocks.ROUNDABLE)
def test_scales_of_any_size_may_be_rounded(name: str) -> None:
    rows = quantized(name, 8, 512, 1)
    made = operands(name, rows)
    found = blocks.rebuild(name, changed(made, scales=made.scales * np.float32(1.0002)), rounded=True)
    assert np.abs(values(name, found) - values(name, rows)).max() < 1e-3 * np.abs(values(name, rows)).max()
    for size in (1e-9, 1e9):
        with pytest.raises(Unfit, match="beyond half precision"):
            blocks.rebuild(name, changed(made, scales=made.scales * np.float32(size)), rounded=True)


def test_forms_without_a_format() -> None:
    assert blocks.candidates("Q2_K", 2, 32, corrected=False) == ()
    assert blocks.candidates("Q6_K", 8, 16, corrected=True) == ()


@pytest.mark.parametrize(("name", "bits"), [("Q4_0", 4), ("Q8_0", 8)])
@pytest.mark.parametrize("block", [64, 128])
def test_longer_blocks_are_several_of_32(name: str, bits: int, block: int) -> None:
    rng = np.random.default_rng(block)
    q = rng.integers(0, 256, (5, 512 // block, block * bits // 8), dtype=np.uint8)
    scales = rng.standard_normal((5, 512 // block)).astype(np.float16).astype(np.float32)
    made = Operands(bits, block, q, scales)
    assert blocks.candidates("F16", bits, block, corrected=False)[0] == name
    flat = q.reshape(5, -1)
    steps = np.stack([flat & 15, flat >> 4], axis=2).reshape(5, -1) if bits == 4 else flat
    wanted = (steps.astype(np.float32) - np.float32(8 if bits == 4 else 128)) * np.repeat(scales, block, axis=1)
    np.testing.assert_array_equal(values(name, blocks.rebuild(name, made)), wanted)


def around_points(block: int, seed: int = 0) -> tuple[Operands, Floats]:
    """Operands with all zero points, of scales whose products with them are halves, and the weights they stand for."""
    rng = np.random.default_rng(seed)
    n_blocks = 512 // block
    q = rng.integers(0, 256, (40, n_blocks, block // 2), dtype=np.uint8)
    zeros = np.arange(40 * n_blocks, dtype=np.int32).reshape(40, n_blocks) % 16
    scales = (2.0 ** rng.uniform(-26, 11, zeros.shape)).astype(np.float32)
    scales = shared_by_both(scales * rng.choice(np.array([-1, 1], np.float32), zeros.shape), zeros.astype(np.float32))
    steps = np.stack([q & 15, q >> 4], axis=-1).reshape(40, n_blocks, block).astype(np.float32) - zeros[..., None]
    return Operands(4, block, q, scales, zeros=zeros), (steps * scales[..., None]).reshape(40, 512)


@pytest.mark.parametrize("block", [32, 64, 128])
def test_zero_points_are_least_values_to_the_bit(block: int) -> None:
    made, wanted = around_points(block)
    assert blocks.candidates("F16", 4, block, corrected=False, zero_points=True) == ("Q4_1",)
    np.testing.assert_array_equal(values("Q4_1", blocks.rebuild("Q4_1", made)), wanted)


def test_zero_points_under_scales_of_any_size() -> None:
    """Both numbers of a block may be rounded then, to what is within half precision of them."""
    made, wanted = around_points(32)
    near = np.abs(made.scales) > 2.0**-13
    odd = changed(made, scales=np.where(near, made.scales * np.float32(1.0003), np.float32(0)))
    with pytest.raises(Unfit, match="not of half precision"):
        blocks.rebuild("Q4_1", odd)
    found = values("Q4_1", blocks.rebuild("Q4_1", odd, rounded=True)).reshape(40, -1, 32)
    size = np.abs(made.scales)[..., None]
    assert (np.abs(found - wanted.reshape(found.shape))[near] <= (30 * 2.0**-11 * size + 15 * 3e-4 * size)[near]).all()
    for factor, message in ((1e9, "beyond half precision"), (30, "least values beyond half precision")):
        with pytest.raises(Unfit, match=message):
            blocks.rebuild("Q4_1", changed(made, scales=made.scales * np.float32(factor)), rounded=True)


@pytest.mark.parametrize(
    ("bits", "block", "corrected"), [(8, 32, False), (4, 16, False), (4, 256, False), (4, 32, True)]
)
def test_zero_points_without_a_format(bits: int, block: int, corrected: bool) -> None:
    assert blocks.candidates("Q4_1", bits, block, corrected, zero_points=True) == ()
