"""What a header says: which matrices are ours, whether answers depend on company, and the work of products."""

from __future__ import annotations

from pathlib import Path

import gguf_files
import pytest
from gguf_files import ARRAY, I32, Q4_0, Q8_0, STRING, U32, Tensor

from edgeinfer import bench, gguf, kernels
from edgeinfer.coverage import Coverage, coverage, in_words, is_multiplied, work
from edgeinfer.kernels import KernelReport

Q8_BITS, Q4_BITS = 34 / 32, 18 / 32  # bytes a weight
ACTIVE = KernelReport(True, isa="avx2")
Q2_K, IQ4_XS = 10, 23
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


needs_kernels = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())


@needs_kernels
def test_a_model_of_ours(tmp_path: Path) -> None:
    covered = coverage(read(gguf_files.model(), tmp_path), ACTIVE)
    assert covered.types == {"Q4_0": kernels.matmul_isa(2), "Q8_0": kernels.matmul_isa(8)}
    assert covered.n_matrices == {"Q4_0": 4, "Q8_0": 3}  # the embedding is the output matrix as well
    assert covered.same_answers
    assert covered.why_not == ""


@needs_kernels
def test_a_table_that_rows_are_looked_up_in_is_no_matrix(tmp_path: Path) -> None:
    made = gguf_files.model()
    made.tensors[0] = Tensor("token_embd.weight", (64, 300), 0)
    made.tensors += [
        Tensor("output.weight", (64, 300), 2),
        Tensor("position_embd.weight", (64, 512)),
        Tensor("blk.0.attn_q.bias", (64,)),
        Tensor("rope_freqs.weight", (8,)),
    ]
    file = read(made, tmp_path)
    multiplied = [name for name, tensor in file.tensors.items() if is_multiplied(tensor, file)]
    assert multiplied == [f"blk.{i}.{w}.weight" for i in range(2) for w in ("attn_q", "attn_k", "ffn_up")] + [
        "output.weight"
    ]
    assert coverage(file, ACTIVE).same_answers


@needs_kernels
@pytest.mark.parametrize("types", [(Q2_K,), (IQ4_XS, Q2_K)])
def test_one_matrix_that_stays_is_named(tmp_path: Path, types: tuple[int, ...]) -> None:
    made = gguf_files.model(n_embd=256)
    for kind, tensor in zip(types, made.tensors[3:], strict=False):
        tensor.type = kind
    covered = coverage(read(made, tmp_path), ACTIVE)
    names = [gguf.formats.TENSOR_TYPES[kind].name for kind in types]
    assert [name for name, isa in covered.types.items() if isa == "llama.cpp"] == sorted(names)
    assert not covered.same_answers
    assert covered.why_not.startswith("our kernels do not take ")
    assert all(name in covered.why_not for name in names)


@needs_kernels
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3", "gemma2", "gpt-oss", "mamba"])
def test_only_proven_architectures(tmp_path: Path, architecture: str) -> None:
    made = gguf_files.model()
    made.keys = {key.replace("llama.", f"{architecture}."): value for key, value in made.keys.items()}
    made.keys["general.architecture"] = (STRING, architecture)
    covered = coverage(read(made, tmp_path), ACTIVE)
    assert covered.same_answers == (architecture in ("llama", "qwen2", "qwen3", "gemma3"))
    assert covered.same_answers or covered.why_not == f"our kernels are not proven on architecture {architecture}"
    assert "llama.cpp" not in covered.types.values()  # the products are ours all the same


@needs_kernels
@pytest.mark.parametrize(("head_dim", "kv_type", "ours"), [(64, "q8_0", True), (80, "q8_0", False), (80, "f16", True)])
def test_quantized_caches(tmp_path: Path, head_dim: int, kv_type: str, ours: bool) -> None:
    made = gguf_files.model()
    made.keys["llama.attention.key_length"] = made.keys["llama.attention.value_length"] = (U32, head_dim)
    covered = coverage(read(made, tmp_path), ACTIVE, kv_type=kv_type)
    assert covered.same_answers == ours
    assert ours or covered.why_not == "our attention does not take heads of 80 and 80 dimensions"


@needs_kernels
def test_a_cache_of_another_type_is_not_ours(tmp_path: Path) -> None:
    file = read(gguf_files.model(), tmp_path)
    assert coverage(file, ACTIVE, kv_type="q4_0").why_not == "our kernels do not take a q4_0 KV cache"


@needs_kernels
def test_a_cache_beyond_our_attention(tmp_path: Path) -> None:
    file = read(gguf_files.model(), tmp_path)
    assert coverage(file, ACTIVE, n_cells=1 << 18).same_answers
    assert "262145 cells" in coverage(file, ACTIVE, n_cells=(1 << 18) + 1).why_not


@needs_kernels
@pytest.mark.parametrize(
    ("key_length", "value_length", "ours"),
    [(16, 16, True), (80, 80, True), (512, 512, True), (24, 24, False), (528, 528, False), (64, 32, False)],
)
def test_heads_of_odd_sizes(tmp_path: Path, key_length: int, value_length: int, ours: bool) -> None:
    """As can_attend in plugin/attend.cc has it."""
    made = gguf_files.model()
    made.keys["llama.attention.key_length"] = (U32, key_length)
    made.keys["llama.attention.value_length"] = (U32, value_length)
    covered = coverage(read(made, tmp_path), ACTIVE)
    assert covered.same_answers == ours
    assert ours or covered.why_not == (
        f"our attention does not take heads of {key_length} and {value_length} dimensions"
    )


@needs_kernels
def test_kernels_that_stand_aside_take_nothing(tmp_path: Path) -> None:
    covered = coverage(read(gguf_files.model(), tmp_path), KernelReport(False, "they are on holiday"))
    assert set(covered.types.values()) == {"llama.cpp"}
    assert (covered.same_answers, covered.why_not) == (False, "they are on holiday")
