"""What weights are fed while a model reads: sums against those that llama.cpp's own numbers give, matrix by matrix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_models import runnable

from edgeinfer import kernels
from edgeinfer.calibrate import Calibrator, Hessians, Sample
from edgeinfer.errors import BackendUnavailable, UnsupportedModel, UsageError
from edgeinfer.kernels.collecting import collecting

pytestmark = pytest.mark.skipif(not kernels.expected().active, reason=kernels.expected().why)

TEXT = "She sells sea shells by the sea shore, and 12 of them are white. " * 40
SAMPLE = Sample.of(TEXT, "shells.txt", 600)


@pytest.fixture
def calibrator(tmp_path: Path) -> Iterator[Calibrator]:
    with Calibrator(str(runnable(default="Q4_K").write(tmp_path / "tiny.gguf")), SAMPLE) as opened:
        yield opened


def test_squares_of_every_weight_but_the_table(calibrator: Calibrator) -> None:
    found = calibrator.squares()
    assert set(found) == set(calibrator.shapes())
    assert "token_embd.weight" not in found
    assert "output.weight" in found
    for name, one in found.items():
        assert one.sums.shape == (1, calibrator.shapes()[name][1])
        assert (one.sums > 0).any()
    # All tokens reach the first layer; those that get logits, a quarter, the head.
    assert found["blk.0.attn_q.weight"].counts == calibrator.n_tokens == 600
    assert found["output.weight"].counts == 600 / 4


def test_weights_with_one_input_are_fed_the_same(calibrator: Calibrator) -> None:
    found = calibrator.squares()
    for first, second in (("attn_q", "attn_k"), ("attn_q", "attn_v"), ("ffn_gate", "ffn_up")):
        np.testing.assert_array_equal(found[f"blk.1.{first}.weight"].sums, found[f"blk.1.{second}.weight"].sums)
    assert not np.array_equal(found["blk.0.attn_q.weight"].sums, found["blk.1.attn_q.weight"].sums)


def test_products_have_the_squares_on_their_diagonal(calibrator: Calibrator) -> None:
    name = "blk.1.ffn_down.weight"
    squares, products = calibrator.squares()[name], calibrator.products([name])[name]
    assert products.n_rows == squares.counts[0]
    np.testing.assert_allclose(np.diagonal(products.sums), squares.sums[0], rtol=1e-4)
    np.testing.assert_allclose(products.sums, products.sums.T, rtol=1e-4, atol=1e-4 * squares.sums.max())
    assert np.linalg.eigvalsh(products.sums.astype(np.float64)).min() > -1e-2


def test_a_norm_of_ones_makes_squares_that_add_up_to_the_width(calibrator: Calibrator) -> None:
    """What feeds Q has a mean square of 1 for each token, as its norm's weights are all 1."""
    squares = calibrator.squares()["blk.0.attn_q.weight"]
    assert squares.sums.sum() == pytest.approx(float(squares.counts[0]) * 256, rel=1e-2)  # but for the norm's epsilon


def test_experts_are_counted_each(tmp_path: Path) -> None:
    model = runnable(default="Q4_K", n_experts=4).write(tmp_path / "tiny.gguf")
    with Calibrator(str(model), SAMPLE) as calibrator:
        found = calibrator.squares()
        one = found["blk.0.ffn_up_exps.weight"]
        assert one.sums.shape == (4, 256)
        assert one.counts.sum() == 2 * calibrator.n_tokens  # two of them for each token
        assert (one.counts > 0).sum() >= 2
        unused = one.counts == 0
        assert not one.sums[unused].any()
        # What an expert's second matrix is fed is counted where its first was.
        np.testing.assert_array_equal(found["blk.0.ffn_down_exps.weight"].counts, one.counts)
        assert calibrator.products(["blk.0.ffn_up_exps.weight"]) == {}


def test_nothing_is_collected_when_nobody_asks(calibrator: Calibrator) -> None:
    with collecting({"blk.0.attn_q.weight": (1, 256)}) as found:
        pass
    calibrator.squares()
    assert not found["blk.0.attn_q.weight"].counts.any()


def test_a_weight_of_another_shape_is_passed_over(calibrator: Calibrator) -> None:
    with collecting({"blk.0.attn_q.weight": (1, 128), "blk.0.attn_k.weight": (2, 256)}) as found:
        for _ in calibrator._read():
            pass
    assert not any(one.counts.any() for one in found.values())


def test_products_are_taken_a_few_layers_at_a_time(calibrator: Calibrator) -> None:
    said: list[str] = []
    hessians = Hessians(calibrator, 2 * 4 * 256 * 256, said.append)
    names = [f"blk.{layer}.{part}.weight" for layer in range(2) for part in ("attn_q", "attn_k", "ffn_up", "ffn_down")]
    for name in names:
        found = hessians.of(name)
        assert found is not None
        assert found.sums.shape == (calibrator.shapes()[name][1],) * 2
    assert hessians.n_readings == len(said) > 2
    assert re.match(r"reading shells.txt for blk.0.attn_q.weight", said[0])
    assert hessians.of("blk.1.ffn_down.weight") is not None
    assert hessians.n_readings == len(said)  # it was held
    assert hessians.of("blk.0.attn_norm.weight") is None
    roomy = Hessians(calibrator, 1 << 30)
    for name in names:
        assert roomy.of(name) is not None
    assert roomy.n_readings == 1


def test_what_cannot_be_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(runnable(default="Q4_K").write(tmp_path / "tiny.gguf"))
    with pytest.raises(UsageError, match="has no text to calibrate with"):
        Sample.of("  \n", "empty.txt")
    monkeypatch.setattr(kernels, "install", lambda: kernels.KernelReport(False, "they are on holiday"))
    with pytest.raises((BackendUnavailable, UnsupportedModel), match="on holiday"):
        Calibrator(model, SAMPLE)
