"""What a header says of kernels and of the work of products."""

from __future__ import annotations

from pathlib import Path

import gguf_files
import pytest
from gguf_files import ARRAY, I32, Q4_0, Q8_0, U32, Tensor

from edgeinfer import bench, gguf, kernels
from edgeinfer.coverage import Coverage, coverage, in_words, work

Q8_BITS, Q4_BITS = 34 / 32, 18 / 32  # bytes a weight
BODY = 2 * (64 * 64 + 64 * 32 + 64 * 128)  # weights of both layers


@pytest.fixture
def model() -> gguf_files.File:
    return gguf_files.model()


def read(model: gguf_files.File, folder: Path) -> gguf.GGUFFile:
    return gguf.read_structure(model.write(folder / "model.gguf"))


def test_work_of_a_model_whose_output_is_its_embedding(model: gguf_files.File, tmp_path: Path) -> None:
    cost = work(read(model, tmp_path))
    assert cost.head_ops == 2 * 64 * 300
    assert cost.body_ops == 2 * BODY
    assert cost.decode_bytes == (64 * 300 + 2 * 64 * 32) * Q8_BITS + 2 * (64 * 64 + 64 * 128) * Q4_BITS
    assert cost.prefill_ops(512) == 512 * cost.body_ops + cost.head_ops, "only the last token has logits"


def test_an_embedding_that_is_only_looked_up_is_no_work(model: gguf_files.File, tmp_path: Path) -> None:
    tied = work(read(model, tmp_path))
    model.tensors.append(Tensor("output.weight", (64, 300), Q4_0))
    cost = work(read(model, tmp_path))
    assert (cost.head_ops, cost.body_ops) == (tied.head_ops, tied.body_ops)
    assert tied.decode_bytes - cost.decode_bytes == 64 * 300 * (Q8_BITS - Q4_BITS)


@pytest.mark.parametrize("used", [(U32, 2), (ARRAY, (I32, [2, 2]))], ids=["number", "per layer"])
def test_of_experts_those_that_are_used(model: gguf_files.File, tmp_path: Path, used: tuple[int, object]) -> None:
    before = work(read(model, tmp_path))
    model.tensors.append(Tensor("blk.0.ffn_gate_exps.weight", (64, 128, 8), Q8_0))
    model.keys["llama.expert_used_count"] = used
    cost = work(read(model, tmp_path))
    assert cost.body_ops - before.body_ops == 2 * 2 * 64 * 128
    assert cost.decode_bytes - before.decode_bytes == 2 * 64 * 128 * Q8_BITS


def test_shares_of_the_machine(model: gguf_files.File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "available", lambda: True)
    monkeypatch.setattr(kernels, "read_bandwidth", lambda n: n * 1e9)
    monkeypatch.setattr(kernels, "int8_peak", lambda n: n * 1e10)
    file = read(model, tmp_path)
    measured = bench.Measured("e", n_past=512, n_threads=2, prefill_tps=1e4, decode_tps=1e3)
    share = bench.shares(file, measured)
    assert share is not None
    assert share.decode_bandwidth == pytest.approx(1e3 * work(file).decode_bytes / 2e9)
    assert share.prefill_int8 == pytest.approx(1e4 * (2 * BODY + 2 * 64 * 300 / 512) / 2e10)
    monkeypatch.setattr(kernels, "available", lambda: False)
    assert bench.shares(file, measured) is None


def test_in_words(model: gguf_files.File, tmp_path: Path) -> None:
    some = Coverage(
        {"Q2_K": "llama.cpp", "Q4_K": "avx2"}, {"Q2_K": 1, "Q4_K": 7}, False, "our kernels do not take Q2_K"
    )
    assert in_words(some) == (
        "Q2_K (1 matrix): llama.cpp; Q4_K (7): avx2; same answers in any company: no, our kernels do not take Q2_K"
    )
    off = coverage(read(model, tmp_path), kernels.KernelReport(False, "no reason"))
    assert in_words(off) == "llama.cpp's own: no reason"
