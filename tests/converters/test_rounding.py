"""Rounding to blocks in its several ways: what each minimises it must do better than plain rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx_packages import export, small_package
from small_models import small_model, written

from edgeinfer import gguf, kernels
from edgeinfer.calibrate import Calibrator, Hessians, Sample
from edgeinfer.converters.quantize import gptq
from edgeinfer.converters.quantize.feedback import FED_BACK, fed_back
from edgeinfer.converters.quantize.gptq import Feedback, Grid
from edgeinfer.converters.quantize.ours import floats_of, quantize_ours, to_be_fed_back
from edgeinfer.converters.to_onnx.forms import Form, Parts
from edgeinfer.converters.to_onnx.rounding import Rounding, nearest
from edgeinfer.converters.to_onnx.steps import Steps, best_scales, quants_of
from edgeinfer.errors import FormatError, UsageError
from edgeinfer.onnx import package

Floats = npt.NDArray[np.float32]
N_ROWS, N_COLS = 48, 256
STEPS = Steps(4, 32)


def weights(seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((N_ROWS, N_COLS)).astype(np.float32)


def correlated(seed: int = 1, n: int = 2048) -> Floats:
    """Activations of which some columns are large, and all have much in common."""
    rng = np.random.default_rng(seed)
    mixing, sizes = rng.standard_normal((40, N_COLS)), rng.gamma(0.5, 1, N_COLS)
    mixed = rng.standard_normal((n, 40)) @ mixing + rng.standard_normal((n, N_COLS))
    return (mixed * sizes).astype(np.float32)


def restored(parts: Parts, block: int) -> Floats:
    q = np.stack([parts.q & 15, parts.q >> 4], axis=-1).reshape(N_ROWS, -1, block).astype(np.float32) - 8
    found: Floats = (q * parts.scales[..., None]).reshape(N_ROWS, N_COLS)
    return found


def fed(products: Floats, rows: Floats) -> Floats:
    """The q of 4 bits in blocks of 32."""
    feedback = Feedback(products)
    return feedback(rows, Grid(best_scales(rows, feedback.weights, STEPS), None, 32, -8, 7))


class Known:
    """`Inputs` of one matrix."""

    def __init__(self, sums: Floats) -> None:
        self.sums = sums

    def of(self, name: str) -> Known | None:
        return self if name == "known" else None


@pytest.mark.parametrize("block", [32, 64, 128])
def test_parts_are_what_the_rows_became(block: int) -> None:
    rows, form = weights(), Form(4, block)
    rows[3, :128] = 0
    x = correlated()
    for rounding in (Rounding("rtn"), Rounding("search"), Rounding("gptq", Known(x.T @ x))):
        parts, got = rounding.of("known", form)(rows)
        assert parts.q.shape == (N_ROWS, N_COLS // block, block // 2)
        assert parts.scales.shape == (N_ROWS, N_COLS // block)
        np.testing.assert_array_equal(restored(parts, block), got)
        np.testing.assert_array_equal(parts.scales.astype(np.float16).astype(np.float32), parts.scales)
        assert not got[3, :128].any() or rounding.method == "gptq"


def test_feedback_leaves_less_of_the_error_in_the_output() -> None:
    rows, x, other = weights(), correlated(1), correlated(1, 4096)[2048:]
    found = {}
    for name, (_, got) in {
        "rtn": nearest(rows, Form(4, 32)),
        "gptq": Rounding("gptq", Known(x.T @ x)).of("known", Form(4, 32))(rows),
    }.items():
        found[name] = float(np.square(other @ (got - rows).T).sum())
    assert found["gptq"] < 0.4 * found["rtn"]


def test_feedback_does_not_depend_on_the_unit_nor_on_company() -> None:
    rows, x = weights(), correlated()
    quants = fed(x.T @ x, rows)
    assert (fed(x.T @ x * np.float32(1024), rows) == quants).mean() > 0.99
    assert (fed(x.T @ x, rows[:1]) == quants[:1]).mean() > 0.98


def test_columns_that_nothing_reached_do_not_matter() -> None:
    x = correlated()
    x[:, 64:80] = 0
    assert np.isfinite(fed(x.T @ x, weights())).all()
    assert np.isfinite(fed(np.zeros((N_COLS, N_COLS), np.float32), weights())).all()


def test_inputs_that_are_no_numbers_are_named() -> None:
    broken = np.full((N_COLS, N_COLS), np.nan, np.float32)
    with pytest.raises(FormatError, match="tensor known: what it is fed"):
        Rounding("gptq", Known(broken)).of("known", Form(4, 32))


def test_a_matrix_without_inputs_is_named() -> None:
    rounding = Rounding("gptq", Known(np.eye(N_COLS, dtype=np.float32)))
    rounding.of("strange", Form(4, 32))(weights())
    rounding.of("known", Form(4, 32))
    assert rounding.unknown == ("strange",)


@pytest.mark.parametrize(("method", "inputs"), [("awq", None), ("gptq", None), ("rtn", Known(np.eye(2, dtype="f4")))])
def test_methods_that_cannot_be(method: str, inputs: Known | None) -> None:
    with pytest.raises(UsageError):
        Rounding(method, inputs)  # type: ignore[arg-type]


def test_what_is_factored_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it was not done in blocks, and a matrix of 16384 columns ended the process."""
    rows, x = weights(), correlated()
    whole = fed(x.T @ x, rows)
    monkeypatch.setattr(gptq, "_BLOCK", 96)
    blocks = fed(x.T @ x, rows)
    assert (whole != blocks).mean() < 1e-3
    x[:, 5] = np.nan
    with pytest.raises(ValueError, match="not numbers"):
        Feedback(x.T @ x)


def error(rows: Floats, scales: Floats, weighted: Floats, power: float) -> float:
    blocks = rows.reshape(N_ROWS, -1, 32)
    left = np.abs(quants_of(blocks, scales[..., None], STEPS) * scales[..., None] - blocks).reshape(rows.shape)
    return float((left**power * weighted).sum())


def test_scales_are_better_than_the_greatest_weights() -> None:
    rows = np.random.default_rng(5).standard_t(3, (N_ROWS, N_COLS)).astype(np.float32)
    importance = np.random.default_rng(6).gamma(0.3, 1, N_COLS).astype(np.float32)
    plain = nearest(rows, Form(4, 32))[0].scales
    assert error(rows, best_scales(rows, importance, STEPS), importance, 2) < 0.8 * error(rows, plain, importance, 2)
    ones = np.ones(N_COLS, np.float32)
    assert error(rows, best_scales(rows, ones, STEPS), ones, 2) < 0.96 * error(rows, plain, ones, 2)


@pytest.mark.parametrize("name", [*FED_BACK])
def test_blocks_of_gguf_take_it_back_too(name: str) -> None:
    rows, x, other = weights(), correlated(1), correlated(1, 4096)[2048:]
    feedback = Feedback(x.T @ x)
    found = []
    for blocks in (kernels.quantize(name, rows, importance=feedback.weights), fed_back(name, rows, feedback)):
        got = kernels.dequantize(name, blocks)
        assert np.abs(got - rows).max() < 1
        found.append(float(np.square(other @ (got - rows).T).sum()))
    assert found[1] < 0.7 * found[0]


@pytest.mark.parametrize("name", [*FED_BACK])
def test_without_anything_in_common_nothing_is_taken_back(name: str) -> None:
    """Each weight then gets the step that is nearest, as the quantizer has it."""
    rows, squares = weights(), np.random.default_rng(9).gamma(1, 1, N_COLS).astype(np.float32)
    feedback = Feedback(np.diag(squares))
    plain = kernels.dequantize(name, kernels.quantize(name, rows, importance=feedback.weights))
    got = kernels.dequantize(name, fed_back(name, rows, feedback))
    np.testing.assert_allclose(np.abs(got - rows), np.abs(plain - rows), atol=2e-5)


def test_a_gguf_model_learns_from_a_text(tmp_path: Path) -> None:
    model = written(small_model(default="F16"), tmp_path)
    sample = Sample.of("Of all the things that words can do, the best is to be read. " * 30, "words.txt", 512)
    names = to_be_fed_back(gguf.read(model), "Q4_K_M", ())
    assert "blk.0.attn_q.weight" in names
    assert not any("norm" in name for name in names)
    with Calibrator(str(model), sample) as calibrator:
        hessians = Hessians(calibrator, 1 << 30, order=names)
        products = {name: hessians.of(name) for name in names}
        made = quantize_ours(model, tmp_path / "made.gguf", "Q4_K_M", inputs=hessians)
        assert hessians.n_readings == 1
    plain = quantize_ours(model, tmp_path / "plain.gguf", "Q4_K_M")
    assert made.types == plain.types
    assert made.written.n_bytes == plain.written.n_bytes
    name = "blk.1.ffn_down.weight"
    known = products[name]
    assert known is not None
    errors = []
    for path in (made.written.path, plain.written.path):
        off = _values(path, name) - _values(model, name)
        errors.append(float(np.einsum("ij,jk,ik->", off, known.sums, off)))
    assert errors[0] < 0.9 * errors[1]


def _values(path: Path, name: str) -> Floats:
    return np.concatenate([*floats_of(gguf.read(path).tensors[name])])


@pytest.mark.parametrize("block", [64, 128])
def test_blocks_are_as_long_as_is_asked(block: int, tmp_path: Path) -> None:
    """What rows do not divide into gets shorter ones."""
    made = package.read(small_package(tmp_path, quant="int4", block=block)[1])
    forms = {tensor.block for tensor in made.tensors.values() if tensor.form == "nbits4"}
    assert forms == {block}


def test_a_package_learns_from_a_text(tmp_path: Path) -> None:
    model = written(small_model(default="F16"), tmp_path)
    sample = Sample.of("Of all the things that words can do, the best is to be read. " * 30, "words.txt", 512)
    with Calibrator(str(model), sample) as calibrator:
        rounding = Rounding("gptq", Hessians(calibrator, 1 << 30))
        made = export(model, tmp_path / "made", quant="int4", rounding=rounding)
    plain = export(model, tmp_path / "plain", quant="int4")
    assert rounding.unknown == ()
    assert made.measured["bits_per_weight"] == plain.measured["bits_per_weight"]
    assert made.measured["relative_error"] != plain.measured["relative_error"]
    package.read(tmp_path / "made").check_hashes()
