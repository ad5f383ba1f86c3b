from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gguf_files import ARRAY, BOOL, Q4_K, U32, File, Tensor, model

from edgeinfer import gguf, kernels, memory, packed
from edgeinfer.engines.base import EngineConfig
from edgeinfer.errors import InsufficientMemory

MIB = 1 << 20
AVX2 = (frozenset({"Q4_0", "Q4_K"}), 8)


@pytest.fixture
def repacks_as_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_repacked_types", lambda: AVX2)


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(memory, "available", lambda: n_bytes)


def read(made: File, tmp_path: Path) -> gguf.GGUFFile:
    return gguf.read(made.write(tmp_path / "m.gguf"))


def big(tmp_path: Path) -> gguf.GGUFFile:
    """Weights of about 73 MB, most of them repacked, without the bytes on disk."""
    made = model(n_embd=1024, n_layers=8)
    made.tensors = [Tensor("token_embd.weight", (1024, 300), 8), Tensor("output.weight", (1024, 300), 8)]
    made.tensors += [Tensor(f"blk.{i}.ffn_up.weight", (1024, 16384), Q4_K) for i in range(8)]
    made.keys["llama.context_length"] = (U32, 32768)
    made.keys["llama.rope.dimension_count"] = (U32, 256)
    made.data_bytes = 0
    path = made.write(tmp_path / "big.gguf")
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size + sum(t.n_bytes + 32 for t in made.tensors))
    return gguf.read(path)


def test_kv_is_counted_by_layer_head_and_type(tmp_path: Path) -> None:
    made = model()
    made.keys["llama.attention.head_count_kv"] = (ARRAY, (U32, [4, 2]))
    made.keys["llama.attention.key_length"] = (U32, 32)
    sizes = gguf.dimensions(read(made, tmp_path))
    assert memory.kv_bytes(sizes, EngineConfig(n_ctx=512)) == 512 * 6 * (32 + 16) * 2
    assert memory.kv_bytes(sizes, EngineConfig(n_ctx=512, kv_type="q8_0")) == 512 * 6 * (32 + 16) * 34 // 32
    assert memory.kv_bytes(sizes, EngineConfig(n_ctx=512, n_seq_max=4)) == 4 * 512 * 6 * 48 * 2
    assert memory.kv_bytes(sizes, EngineConfig(n_ctx=512, n_seq_max=4, n_cells=600)) == 768 * 6 * 48 * 2
    assert memory.state_bytes(sizes, EngineConfig(n_ctx=512, n_seq_max=4, n_cells=600)) == 512 * 6 * 48 * 2


def test_an_encoder_keeps_nothing_and_scores_every_pair_of_tokens(tmp_path: Path) -> None:
    """What was measured of one with 12 layers of 768 and 12 heads: 385 MB of 512 tokens, 663 MB of 2,048."""
    made, config = model(), EngineConfig(n_ctx=8192)
    made.keys["llama.context_length"] = (U32, 32768)
    decoder = memory.plan(read(made, tmp_path), config)
    made.keys["llama.attention.causal"] = (BOOL, False)
    whole = memory.plan(read(made, tmp_path), config)
    assert decoder.kv_bytes > 0
    assert whole.kv_bytes == 0
    assert whole.scratch_bytes > decoder.scratch_bytes + 4 * 4 * 8192**2


@pytest.mark.usefixtures("repacks_as_avx2")
def test_only_matrices_of_some_types_are_repacked(tmp_path: Path) -> None:
    made = model(n_layers=1)
    made.tensors = [
        Tensor("token_embd.weight", (64, 300), 2),
        Tensor("output.weight", (64, 300), 2),  # 300 rows are not a multiple of 8
        Tensor("blk.0.attn_q.weight", (64, 64), 2),
        Tensor("blk.0.attn_k.weight", (64, 32), 8),
    ]
    assert memory.repacked_bytes(read(made, tmp_path), ours=False) == 64 * 64 // 32 * 18
    made.tensors[0] = Tensor("token_embd.weight", (64, 304), 2)
    made.tensors[1] = Tensor("blk.0.ffn_up.weight", (64, 64), 8)
    tokens = [f"t{i}" for i in range(304)]
    made.keys["tokenizer.ggml.tokens"] = (ARRAY, (8, tokens))
    made.keys["tokenizer.ggml.token_type"] = (ARRAY, (5, [1] * 304))
    # without an output matrix the embedding is one, and is copied too
    assert memory.repacked_bytes(read(made, tmp_path), ours=False) == (64 * 64 + 64 * 304) // 32 * 18


@pytest.mark.usefixtures("repacks_as_avx2")
def test_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = big(tmp_path)
    config = EngineConfig(n_ctx=1024, kernels=False)
    free(monkeypatch, 1 << 40)
    plan = memory.plan(file, config)
    assert plan.verdict == "fits"
    assert plan.n_ctx_max == 32768
    assert plan.total_bytes == plan.weights_bytes + plan.kv_bytes + plan.scratch_bytes
    assert plan.repacked_bytes == 8 * 1024 * 16384 // 256 * 144
    mapped = plan.weights_bytes - plan.repacked_bytes
    must = plan.total_bytes - mapped
    # what was repacked is not read again from the file, so its pages cost nothing when they are dropped
    for n_bytes, verdict in (
        (plan.total_bytes, "fits"),
        (plan.total_bytes - plan.repacked_bytes, "fits"),
        (plan.total_bytes - plan.repacked_bytes - 1, "pages"),
        (must, "pages"),
        (must - 1, "too_big"),
    ):
        free(monkeypatch, n_bytes)
        assert memory.plan(file, config).verdict == verdict, n_bytes


@pytest.mark.usefixtures("repacks_as_avx2")
def test_without_mapping_nothing_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = big(tmp_path)
    config = EngineConfig(n_ctx=1024, use_mmap=False, kernels=False)
    free(monkeypatch, 1 << 40)
    plan = memory.plan(file, config)
    assert plan.repacked_bytes == 0
    assert plan.weights_bytes == sum(tensor.n_bytes for tensor in file.tensors.values())
    free(monkeypatch, plan.total_bytes - 1)
    assert memory.plan(file, config).verdict == "too_big"


def under_our_kernels(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(kernels, "expected", lambda: kernels.KernelReport(True, isa="avx2"))
    monkeypatch.setattr(kernels, "has_matmul", lambda type_id, _n_cols: type_id in (8, Q4_K))
    monkeypatch.setattr(sys, "platform", platform)


@pytest.mark.usefixtures("repacks_as_avx2")
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_our_kernels_give_the_file_back_on_linux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """One matrix after the other is in memory twice, before the context is made; elsewhere all of them stay so."""
    under_our_kernels(monkeypatch, platform)
    free(monkeypatch, 1 << 40)
    file = big(tmp_path)
    mapped = sum(tensor.n_bytes for tensor in file.tensors.values())
    one = 1024 * 16384 // 256 * 144
    copied = 8 * one + file.tensors["output.weight"].n_bytes
    standing = memory._standing_bytes(file, gguf.dimensions(file))
    large, small = (memory.plan(file, EngineConfig(n_ctx=n_ctx, n_batch=1)) for n_ctx in (8192, 256))
    assert large.repacked_bytes == memory.repacked_bytes(file) == copied  # the embedding is looked up in
    if platform == "linux":
        context = small.total_bytes - small.weights_bytes - standing
        assert small.weights_bytes == mapped + one - context
        assert large.weights_bytes == mapped
    else:
        assert large.weights_bytes == small.weights_bytes == mapped + copied


@pytest.mark.parametrize("n_seq_max", [1, 3])
@pytest.mark.parametrize("room", [200 * MIB, 350 * MIB, 533 * MIB])
def test_the_largest_context_is_the_largest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, n_seq_max: int
) -> None:
    file = big(tmp_path)
    free(monkeypatch, room)
    best = memory.plan(file, EngineConfig(n_ctx=32768, n_seq_max=n_seq_max)).n_ctx_max
    assert best % 256 == 0
    assert 0 < best < 32768
    assert memory.plan(file, EngineConfig(n_ctx=best, n_seq_max=n_seq_max)).verdict != "too_big"
    assert memory.plan(file, EngineConfig(n_ctx=best + 256, n_seq_max=n_seq_max)).verdict == "too_big"


def test_a_cap_holds_for_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing makes the system page for a limit that only we know of."""
    file = big(tmp_path)
    free(monkeypatch, 1 << 40)
    config = EngineConfig(n_ctx=1024)
    total = memory.plan(file, config).total_bytes
    assert memory.plan(file, config, cap_bytes=total).verdict == "fits"
    capped = memory.plan(file, config, cap_bytes=total - 1)
    assert (capped.verdict, capped.available_bytes) == ("too_big", total - 1)


def test_refusal_says_the_numbers_and_what_would_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = big(tmp_path)
    free(monkeypatch, 350 * MIB)
    with pytest.raises(InsufficientMemory, match=r"big\.gguf needs \d+ MiB .*there is room for 350 MiB") as refused:
        memory.check(file, EngineConfig(n_ctx=32768))
    assert refused.value.n_ctx_max > 0
    assert f"-c {refused.value.n_ctx_max}" in str(refused.value)
    with pytest.raises(InsufficientMemory, match="--memory allows 50 MiB; no context would fit") as refused:
        memory.check(file, EngineConfig(n_ctx=1024), cap_bytes=50 * MIB)
    assert refused.value.n_ctx_max == 0
    assert memory.check(file, EngineConfig(n_ctx=256)).verdict == "fits"


def test_context_0_is_the_trained_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = big(tmp_path)
    free(monkeypatch, 1 << 40)
    assert memory.plan(file, EngineConfig(n_ctx=0)) == memory.plan(file, EngineConfig(n_ctx=32768))


def write_groups(root: Path, lines: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": lines, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


STAT = "anon 5\ninactive_file {0}\nactive_file {0}\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups are Linux's")
def test_nested_groups_of_version_2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup"
    root = write_groups(
        tmp_path,
        "0::/outer/inner\n",
        {
            f"{group}/cgroup.controllers": "memory",
            f"{group}/outer/memory.max": str(100 * MIB),
            f"{group}/outer/memory.current": str(70 * MIB),
            f"{group}/outer/memory.stat": STAT.format(10 * MIB),  # 20 of the 70 are only cached files
            f"{group}/outer/inner/memory.max": "max",
            f"{group}/outer/inner/memory.current": str(60 * MIB),
        },
    )
    held = memory.available(tmp_path / "nothing here") - memory.available(root)
    assert held > 0
    in_group = memory.available(root)
    (root / group / "outer/inner/memory.max").write_text(str(61 * MIB))
    assert abs(in_group - memory.available(root) - 49 * MIB) < 4 * MIB  # 50 free outside, 1 inside


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups are Linux's")
def test_groups_of_version_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory"
    root = write_groups(
        tmp_path,
        "9:memory:/box\n",
        {
            f"{group}/memory.limit_in_bytes": "9223372036854771712",  # version 1 has no word for unlimited
            f"{group}/memory.usage_in_bytes": "1",
            f"{group}/box/memory.limit_in_bytes": str(80 * MIB),
            f"{group}/box/memory.usage_in_bytes": str(50 * MIB),
            f"{group}/box/memory.stat": f"total_inactive_file {5 * MIB}\ntotal_active_file {5 * MIB}\n",
        },
    )
    before = memory.available(root)
    (root / group / "box/memory.usage_in_bytes").write_text(str(70 * MIB))
    assert abs(before - memory.available(root) - 20 * MIB) < 4 * MIB


def test_what_the_process_holds_is_its_own(tmp_path: Path) -> None:
    import psutil

    assert memory.available(tmp_path) > psutil.virtual_memory().available // 2


MEASURE = """
import json, sys
from edgeinfer import LLM
from edgeinfer.bench import peak_rss_bytes
with LLM(sys.argv[1], n_ctx=int(sys.argv[2]), n_parallel=int(sys.argv[3]), kernels=sys.argv[4] == "ours") as llm:
    ids = [100 + 7 * i % 40000 for i in range(512)]
    llm.generate(ids, max_tokens=4, temperature=0.0)
    print(json.dumps([llm.plan.total_bytes, llm.plan.kv_bytes + llm.plan.scratch_bytes, peak_rss_bytes()]))
"""


def measured(model: Path, *how: object) -> tuple[int, int, int]:
    """(predicted, what of it is not weights, peak) of a process that loads the model and computes."""
    command = [sys.executable, "-c", MEASURE, str(model), *map(str, how)]
    found = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()[-1]
    predicted, besides_weights, peak = json.loads(found)
    return predicted, besides_weights, peak


@pytest.mark.model
@pytest.mark.parametrize(("n_ctx", "n_parallel", "whose"), [(2048, 1, "ours"), (4096, 4, "ours"), (2048, 1, "stock")])
def test_the_prediction_holds(smollm2: Path, n_ctx: int, n_parallel: int, whose: str) -> None:
    """The figures in `edgeinfer.memory` were fitted by this test's method, on all four models of the catalogue."""
    predicted, besides_weights, peak = measured(smollm2, n_ctx, n_parallel, whose)
    assert 1.0 <= predicted / peak <= 1.2
    if whose == "ours" and sys.platform.startswith("linux") and kernels.expected().active:
        assert peak <= 1.25 * smollm2.stat().st_size + besides_weights  # weights are in memory once


@pytest.mark.model
@pytest.mark.skipif(not kernels.expected().active, reason=f"without our kernels: {kernels.expected().why}")
def test_the_prediction_holds_for_packed_weights_on_disk(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "1")
    measured(smollm2, 2048, 1, "ours")
    assert packed.usage().n_images == 1
    predicted, _, peak = measured(smollm2, 2048, 1, "ours")
    assert 1.0 <= predicted / peak <= 1.2


FULL_CHAT = """
import json, sys
from edgeinfer import LLM
from edgeinfer.bench import peak_rss_bytes
restored = []
for n in (3900, 4000):  # the second reads back what the first has saved
    with LLM(sys.argv[1], n_ctx=4096, kv_cache="1G") as llm:
        ids = [100 + 7 * i % 40000 for i in range(n)]
        restored.append(llm.generate(ids, max_tokens=90, temperature=0.0).stats.n_restored)
        predicted = llm.plan.total_bytes
print(json.dumps([predicted, peak_rss_bytes(), restored]))
"""


@pytest.mark.model
def test_the_prediction_holds_for_a_full_chat_that_is_saved_and_read_back(smollm2: Path) -> None:
    """The copy of a state on its way to disk or back counts."""
    command = [sys.executable, "-c", FULL_CHAT, str(smollm2)]
    predicted, peak, restored = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert restored == [0, 3900]
    assert 1.0 <= predicted / peak <= 1.15


@pytest.mark.model
def test_refusal_is_quick(smollm2: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(InsufficientMemory):
        memory.check(gguf.read(smollm2), EngineConfig(n_ctx=8192), cap_bytes=300 * MIB)
    assert time.perf_counter() - started < 1
