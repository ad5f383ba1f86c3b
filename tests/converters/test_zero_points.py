"""Blocks of 4 bits that step around a point of their own: found, written, multiplied with, and read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx.numpy_helper import to_array
from onnx_packages import damaged, export
from onnx_runs import Dynamic, divergence
from small_models import small_model, written
from tiny_checkpoints import token_ids
from tiny_models import runnable

from edgeinfer.converters.sources import SourceTensor
from edgeinfer.converters.to_onnx import forms
from edgeinfer.converters.to_onnx.mixture import FormOverride, Mixture
from edgeinfer.converters.to_onnx.opening import opened
from edgeinfer.converters.to_onnx.options import Options
from edgeinfer.converters.to_onnx.requantize import values, wanted
from edgeinfer.converters.to_onnx.requantized import quantize_package
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.converters.to_onnx.zero_points import (
    Points,
    by_least_squares,
    by_range,
    half_quadratic,
    quants_around,
    shared_by_both,
)
from edgeinfer.errors import EdgeInferError, FormatError, UnsupportedQuant, UsageError
from edgeinfer.onnx import package

Floats = npt.NDArray[np.float32]
N_ROWS, N_COLS = 40, 384
ONES = np.ones(N_COLS, np.float32)


def skewed(seed: int = 0) -> Floats:
    """Weights of which a few are far from the others, and not around 0."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(3, (N_ROWS, N_COLS)) + 0.5 * rng.standard_normal((N_ROWS, 1))).astype(np.float32)


def off(rows: Floats, points: Points, block: int) -> Floats:
    """The error of each weight."""
    blocks, (scales, zeros) = rows.reshape(N_ROWS, -1, block), points
    q = quants_around(blocks, scales[..., None], zeros[..., None])
    found: Floats = ((q - zeros[..., None]) * scales[..., None] - blocks).reshape(rows.shape)
    return found


class Known:
    """`Inputs` of one matrix."""

    def __init__(self, x: Floats) -> None:
        self.sums = x.T @ x

    def of(self, name: str) -> Known | None:
        return self if name == "known" else None


def test_a_scale_times_its_zero_point_is_a_half_too() -> None:
    """For all zero points, and scales of every size, of both signs."""
    rng = np.random.default_rng(1)
    sizes = np.concatenate([2.0 ** rng.uniform(-30, 20, 20000), rng.uniform(0, 1e-6, 1000), [0, 4095, 1e30]])
    exact = (sizes * rng.choice([-1, 1], len(sizes))).astype(np.float32)
    for zero in range(16):
        scales = shared_by_both(exact, np.full_like(exact, zero))
        for each in (scales, scales * np.float32(zero)):
            assert np.array_equal(each.astype(np.float16).astype(np.float32), each)
        normal = (np.abs(exact) > 1e-3) & (np.abs(exact) < 4000)
        assert np.abs(scales[normal] / exact[normal] - 1).max() <= (
            2**-11 if zero in (0, 1, 2, 4, 8) else 2**-7 + 2**-11
        )


@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("method", ["rtn", "search", "hqq", "gptq"])
def test_parts_are_what_the_rows_became(method: Any, block: int) -> None:
    rows, form = skewed(), forms.Form(4, block, zero_points=True)
    rows[3, :128] = 0
    rows[4, :128] = np.abs(rows[4, :128]) + 3
    rows[5, :128] = 1e9  # beyond half precision: as near as it can be
    x = np.random.default_rng(2).standard_normal((500, N_COLS)).astype(np.float32)
    parts, got = Rounding(method, Known(x) if method == "gptq" else None).of("known", form)(rows)
    assert parts.zeros is not None
    assert parts.zeros.dtype == np.uint8
    assert (parts.q.shape, parts.zeros.shape) == ((N_ROWS, N_COLS // block, block // 2), (N_ROWS, N_COLS // block))
    assert parts.zeros.max() <= 15
    assert {*np.unique(parts.zeros[4])} != {8}
    least = parts.scales * parts.zeros.astype(np.float32)
    for each in (parts.scales, least):
        assert np.array_equal(each.astype(np.float16).astype(np.float32), each)
    stored = forms.joined(parts)
    assert np.array_equal(forms.restored(forms.own_type(form), stored), got)
    again = forms.decoded(forms.own_type(form), stored)
    assert np.array_equal(again.q, parts.q)
    assert np.array_equal(again.zeros, parts.zeros)  # type: ignore[arg-type]
    assert method == "gptq" or not got[3, :128].any()


@pytest.mark.parametrize("block", [32, 128])
def test_each_way_leaves_less_of_what_it_minimises(block: int) -> None:
    rows, importance = skewed(), np.random.default_rng(6).gamma(0.3, 1, N_COLS).astype(np.float32)
    plain, robust = (off(rows, find(rows, block), block) for find in (by_range, half_quadratic))
    fitted, weighted = (off(rows, by_least_squares(rows, each, block), block) for each in (ONES, importance))
    assert (fitted**2).sum() < 0.95 * (plain**2).sum()
    assert (weighted**2 * importance).sum() < 0.9 * (fitted**2 * importance).sum()
    assert (np.abs(robust) ** 0.7).sum() < 0.97 * (np.abs(plain) ** 0.7).sum()
    symmetric = Rounding("search").of("any", forms.Form(4, block))(rows)[1] - rows
    assert (fitted**2).sum() < 0.95 * (symmetric**2).sum()


def test_feedback_leaves_less_in_the_output() -> None:
    rng, rows = np.random.default_rng(4), skewed()
    mixing = rng.standard_normal((40, N_COLS))
    x = (rng.standard_normal((3000, 40)) @ mixing + rng.standard_normal((3000, N_COLS))).astype(np.float32)
    form, found = forms.Form(4, 64, zero_points=True), {}
    for method, inputs in (("rtn", None), ("search", None), ("gptq", Known(x[:2000]))):
        got = Rounding(method, inputs).of("known", form)(rows)[1]  # type: ignore[arg-type]
        found[method] = float(np.square(x[2000:] @ (got - rows).T).sum())
    assert found["gptq"] < 0.5 * found["search"] < 0.5 * found["rtn"]


def test_two_zero_points_in_a_byte() -> None:
    zeros = np.array([[1, 2, 3], [15, 0, 7]], np.uint8)
    assert forms.packed_zeros(zeros).tolist() == [[0x21, 0x03], [0x0F, 0x07]]


# ---- packages


def model_of(folder: Path, **more: Any) -> Path:
    """With rows of five blocks of 32: zero points that fill no whole bytes."""
    return written(runnable(default="F16", n_ff=160, **more), folder)


def weights(folder: Path) -> dict[str, Floats]:
    with opened(folder) as model:
        tensors = model.source.tensors
        return {name: values(each.type, model.source.rows(name, 0, each.n_rows)) for name, each in tensors.items()}


def made_of(folder: Path, out: Path, **more: Any) -> package.Package:
    return export(folder, out, quant="int4", zero_points=True, **more)


def test_a_package_has_them_and_runs_with_them(tmp_path: Path) -> None:
    """What plain ONNX Runtime computes is what it computes with the floats that they stand for."""
    folder = model_of(tmp_path)
    made = made_of(folder, tmp_path / "out", variant=("cpu", "cuda"), block=64)
    name = "blk.0.attn_q.weight"
    assert made.tensors[name] == package.TensorForm("F16", "nbits4", 64, zero_points=True)
    assert made.tensors["blk.0.ffn_down.weight"].block == 32  # rows of 160
    assert made.tensors["token_embd.weight"].form == "nbits8"
    assert package.read(tmp_path / "out") == made
    proto = onnx.load(tmp_path / "out" / "model.onnx")
    stored = {tensor.name: to_array(tensor) for tensor in proto.graph.initializer}
    node = next(node for node in proto.graph.node if node.name == "blk.0.attn_q")
    assert list(node.input[1:]) == [f"{name}.q", f"{name}.scales", f"{name}.zeros"]
    assert stored[f"{name}.zeros"].shape == (256, 2)
    assert stored["blk.0.ffn_down.weight.zeros"].shape == (256, 3)
    assert not (stored["blk.0.ffn_down.weight.zeros"][:, 2] >> 4).any()
    quantize_package(tmp_path / "out", tmp_path / "floats", Options(mixture=Mixture("f32")))
    ids = token_ids()
    blocks, floats = (Dynamic(tmp_path / each)(ids) for each in ("out", "floats"))
    assert np.abs(blocks - floats).max() < 0.05 * np.abs(floats).max()  # inputs are rounded to 8 bits
    assert np.median(divergence(floats, blocks)) < 0.01


def test_a_package_with_them_is_a_source_too(tmp_path: Path) -> None:
    folder = model_of(tmp_path)
    first = made_of(folder, tmp_path / "first", rounding=Rounding("hqq"))
    asked = (FormOverride("attn", "keep"),)
    second = quantize_package(tmp_path / "first", tmp_path / "second", Options(mixture=Mixture("int4", 32, asked)))
    whole, found = weights(tmp_path / "first"), weights(tmp_path / "second")
    for name, form in second.tensors.items():
        matrix = form.form == "nbits4"
        assert form.zero_points == ("attn" in name and matrix), name
        assert np.array_equal(found[name], whole[name]) == (not matrix or form.zero_points), name
    assert first.tensors["blk.0.attn_q.weight"] == second.tensors["blk.0.attn_q.weight"]
    with pytest.raises(UsageError, match="every matrix has the form already"):
        quantize_package(tmp_path / "first", tmp_path / "third", Options(mixture=Mixture("int4", zero_points=True)))
    bits = [each.measured["bits_per_weight"] for each in (first, export(folder, tmp_path / "plain", quant="int4"))]
    assert bits[0] < bits[1] + 0.2


def test_what_a_model_loses(tmp_path: Path) -> None:
    """Each way less than the one before it, at the same size but for the zero points'."""
    model, ids = written(small_model(default="F16"), tmp_path), token_ids(n=64)
    export(model, tmp_path / "exact", quant="f32")
    exact, found = Dynamic(tmp_path / "exact")(ids), {}
    for method, zero_points in (("rtn", False), ("rtn", True), ("search", True), ("hqq", True)):
        out = tmp_path / f"{method}-{zero_points}"
        export(model, out, quant="int4", zero_points=zero_points, rounding=Rounding(method))  # type: ignore[arg-type]
        found[method, zero_points] = float(divergence(exact, Dynamic(out)(ids)).mean())
    assert found["search", True] < 0.9 * found["rtn", True]
    assert found["hqq", True] < found["rtn", True] < found["rtn", False]


def test_which_matrices_get_them() -> None:
    tensor = SourceTensor((64, 256), "F16", 512)
    names = ("blk.0.ffn_up.weight", "output.weight", "token_embd.weight", "blk.0.ffn_up_exps.weight")
    made = [wanted(name, tensor, "int4", by_name=True, zero_points=True) for name in names]
    assert [form is not None and form.zero_points for form in made] == [True, True, False, False]
    old = SourceTensor((64, 256), "nbits4/32+zeros", 0)
    assert wanted(names[0], old, "int4", zero_points=True) == wanted(names[0], old, "int8") == forms.OWN[old.type]
    assert wanted(names[0], old, "int4") == forms.Form(4, 32)
    assert wanted(names[0], SourceTensor((64, 256), "Q4_0", 0), "int4", zero_points=True) == forms.Form(4, 32)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quant": "int8", "zero_points": True}, "zero points are for int4"),
        (
            {"quant": "int4", "zero_points": True, "variant": ("cpu", "npu")},
            "zero points are for variants cpu and cuda",
        ),
        ({"quant": "int4", "rounding": Rounding("hqq")}, "method hqq looks for zero points"),
    ],
)
def test_zero_points_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = written(small_model(default="F16"), tmp_path)
    with pytest.raises(UsageError, match=message):
        export(model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_npus_cannot_keep_them(tmp_path: Path) -> None:
    made_of(written(small_model(default="F16"), tmp_path), tmp_path / "first")
    with pytest.raises(UnsupportedQuant, match=r"blk\.0\.\w+\.weight has zero points, which graphs of variant npu"):
        export(tmp_path / "first", tmp_path / "out", variant=("npu",))
    assert not (tmp_path / "out").exists()


def with_form(**form: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["quantization"]["tensors"]["blk.0.attn_q.weight"].update(form)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_form(zero_points=False), "is said to have no zero points, but has some"),
        (with_form(form="nbits8"), "blocks of 32 with zero points, which no graph of ours has"),
        (with_form(correction=True), "blocks of 32 with zero points, which no graph of ours has"),
        (with_form(block=16), "blocks of 16 with zero points"),
        (with_form(zero_points=1), "zero_points must be true or false"),
    ],
)
def test_a_manifest_that_lies(change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    made_of(written(small_model(default="F16"), tmp_path), tmp_path / "first")
    damaged(tmp_path / "first", change)
    with pytest.raises(EdgeInferError, match=message) as caught:
        quantize_package(tmp_path / "first", tmp_path / "out", Options(mixture=Mixture("f16")))
    assert isinstance(caught.value, FormatError)
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_claims_them(tmp_path: Path) -> None:
    export(written(small_model(default="F16"), tmp_path), tmp_path / "first", quant="int4", variant=("cpu", "npu"))
    damaged(tmp_path / "first", with_form(zero_points=True))
    with pytest.raises(FormatError, match=r"blk\.0\.attn_q\.weight\.zeros' is missing from its graph"):
        quantize_package(tmp_path / "first", tmp_path / "out", Options(mixture=Mixture("f16")))
    export(written(small_model(default="F16"), tmp_path), tmp_path / "npu", quant="int4", variant=("npu",))
    damaged(tmp_path / "npu", with_form(zero_points=True))
    with pytest.raises(FormatError, match="is said to have zero points, which no graph for NPUs has"):
        quantize_package(tmp_path / "npu", tmp_path / "out", Options(mixture=Mixture("f16")))
