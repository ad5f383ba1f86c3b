"""Every GGUF format becomes ONNX Runtime's without another rounding, bit by bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from tiny_models import random_weights

from edgeinfer.converters.to_onnx import forms
from edgeinfer.converters.to_onnx.requantize import values
from edgeinfer.converters.to_onnx.rounding import nearest

Floats = npt.NDArray[np.float32]
N_ROWS, N_COLS = 6, 768


def rows_of(type_name: str, seed: int = 0) -> npt.NDArray[np.uint8]:
    data = random_weights(type_name, (N_COLS, N_ROWS), np.random.default_rng(seed))
    return np.frombuffer(data, np.uint8).reshape(N_ROWS, -1)


def restored(parts: forms.Parts, form: forms.Form) -> Floats:
    """What the operator makes of the parts: scale * (q - middle), and an offset a block of 32."""
    q = parts.q
    if form.bits == 4:
        q = np.stack([q & 15, q >> 4], axis=-1).reshape(*q.shape[:2], -1)
    steps = q.astype(np.float32) - (8 if form.bits == 4 else 128)
    found: Floats = (steps * parts.scales[..., None]).reshape(N_ROWS, N_COLS)
    if parts.offsets is not None:
        found = (found.reshape(N_ROWS, -1, 32) + parts.offsets[..., None]).reshape(N_ROWS, N_COLS)
    return found


@pytest.mark.parametrize("type_name", [name for name in forms.KEPT if name not in forms.OWN])
def test_blocks_are_kept(type_name: str) -> None:
    form, rows = forms.KEPT[type_name], rows_of(type_name)
    parts = forms.decoded(type_name, rows)
    assert parts.q.dtype == np.uint8
    assert parts.q.shape == (N_ROWS, N_COLS // form.block, form.block * form.bits // 8)
    assert parts.scales.shape == (N_ROWS, N_COLS // form.block)
    assert (parts.offsets is not None) == form.corrected
    exact = values(type_name, rows)
    if form.corrected:  # the sum of both parts is rounded once more; nothing else is
        assert np.allclose(restored(parts, form), exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    else:
        assert np.array_equal(restored(parts, form), exact)


@pytest.mark.parametrize("block", [18, 64])
def test_offsets_are_rounded_to_a_half_step(block: int) -> None:
    offsets = np.random.default_rng(1).standard_normal((5, 90)).astype(np.float32)
    offsets[2] = 0
    q, scales = forms.quantize_offsets(offsets, block)
    assert q.shape == (5, 90)
    assert scales.shape == (5, -(-90 // block))
    error = np.abs(forms.restored_offsets(q, scales, block) - offsets)
    assert (error <= 0.5001 * np.repeat(scales, block, axis=1)[:, :90]).all()
    assert not error[2].any()


@pytest.mark.parametrize("bits", [4, 8])
def test_requantizing_rounds_to_the_nearest_step(bits: int) -> None:
    form = forms.Form(4, 32) if bits == 4 else forms.Form(8, 32)
    exact = np.random.default_rng(2).standard_normal((N_ROWS, N_COLS)).astype(np.float32)
    exact[1, :32] = 0
    exact[2, :32] = 1e9  # beyond half precision: as near as it can be
    parts, got = nearest(exact, form)
    assert np.array_equal(restored(parts, form), got)
    assert np.array_equal(parts.scales.astype(np.float16).astype(np.float32), parts.scales)
    scales = np.repeat(np.abs(parts.scales), 32, axis=1)
    inside = np.ones_like(exact, np.bool_)
    inside[2, :32] = False
    limit = 0.501 if bits == 8 else 1.001  # 4 bits have one step fewer on one side
    assert (np.abs(got - exact) <= limit * scales + 1e-3 * np.abs(exact))[inside].all()
