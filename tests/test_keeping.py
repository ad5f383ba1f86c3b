"""What opening a model decides about KV: its type, how many conversations are kept, whether they are saved, and what
saved states depend on."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path

import pytest
from gguf_files import U32, Tensor, model

from edgeinfer import gguf, keeping, kernels, memory, opening
from edgeinfer.engines.base import EngineConfig
from edgeinfer.errors import InsufficientMemory, UsageError

CONFIG = EngineConfig(n_ctx=8192, n_seq_max=2, isolate=True)
REPORT = kernels.KernelReport(False, "not here")


def a_file(path: Path, *, seed: int = 0) -> gguf.GGUFFile:
    """Two layers with a context that takes far more than the weights."""
    made = model(n_embd=1024)
    made.keys["llama.context_length"] = (U32, 8192)
    made.tensors.append(Tensor("rope_freqs.weight", (4,), data=bytes([seed] * 16)))
    return gguf.read(made.write(path))


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(memory, "available", lambda: n_bytes)


def needs(file: gguf.GGUFFile, **changes: object) -> int:
    return memory.plan(file, dataclasses.replace(CONFIG, **changes)).total_bytes  # type: ignore[arg-type]


def test_auto_takes_q8_0_only_where_f16_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = a_file(tmp_path / "m.gguf")
    free(monkeypatch, 1 << 40)
    large, small = needs(file), needs(file, kv_type="q8_0")
    config, _, notices = opening._fitting(file, CONFIG, None, 0, True)
    assert (config.kv_type, notices) == ("f16", [])
    free(monkeypatch, (large + small) // 2)
    config, _, notices = opening._fitting(file, CONFIG, None, 0, True)
    assert config.kv_type == "q8_0"
    assert len(notices) == 1
    assert "q8_0" in notices[0]
    with pytest.raises(InsufficientMemory):
        opening._fitting(file, CONFIG, None, 0, False)
    free(monkeypatch, small // 2)
    with pytest.raises(InsufficientMemory):
        opening._fitting(file, CONFIG, None, 0, True)


def test_without_memory_for_a_copy_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = a_file(tmp_path / "m.gguf")
    free(monkeypatch, 1 << 40)
    total = needs(file)
    with_copy = memory.plan(file, CONFIG, saves=True).total_bytes
    assert with_copy - total == memory.state_bytes(gguf.dimensions(file), CONFIG)
    assert opening._fitting(file, CONFIG, None, 99, False)[1:] == (99, [])
    free(monkeypatch, (total + with_copy) // 2)
    _, kv_cache, notices = opening._fitting(file, CONFIG, None, 99, False)
    assert kv_cache == 0
    assert "not saved" in notices[0]


def test_conversations_are_kept_in_the_same_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = a_file(tmp_path / "m.gguf")
    free(monkeypatch, 1 << 40)
    more = opening._with_kept(file, CONFIG, None, False)
    assert (more.n_seq_max, more.n_cells) == (2 + opening.N_KEPT, 2 * 8192)
    sizes = gguf.dimensions(file)
    assert memory.kv_bytes(sizes, more) == memory.kv_bytes(sizes, CONFIG)
    assert opening._with_kept(file, CONFIG, needs(file), False) == CONFIG  # no room for their logits


def test_everything_that_changes_bits_changes_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = a_file(tmp_path / "m.gguf")
    info = gguf.model_info(file, name="m")

    def digest(weights: str = "w", report: kernels.KernelReport = REPORT, **changes: object) -> bytes:
        config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
        return keeping.fingerprint(weights, file, info, config, report).digest()

    first = digest()
    others = [
        digest("v"),
        digest(kv_type="q8_0"),
        digest(isolate=False),
        digest(n_threads=3),
        digest(n_ctx=4096),
        digest(n_batch=64),
        digest(n_seq_max=3),
    ]
    assert first == digest()
    assert len({first, *others}) == 1 + len(others)
    # Our kernels round the same whatever the company and the number of threads.
    alone = digest(isolate=False)
    assert alone == digest(isolate=False, n_threads=3, n_ctx=4096, n_seq_max=9, n_cells=5000)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version(name) + ".1")
    assert digest() != first


@pytest.mark.skipif(not kernels.available(), reason="our kernels are not built")
def test_the_build_of_our_kernels_is_told(tmp_path: Path) -> None:
    file = a_file(tmp_path / "m.gguf")
    info = gguf.model_info(file, name="m")
    prints = {
        keeping.fingerprint("w", file, info, CONFIG, report).kernels
        for report in (REPORT, kernels.KernelReport(True, isa="avx2"), kernels.KernelReport(True, isa="avx512vnni"))
    }
    assert len(prints) == 3


@pytest.mark.parametrize(("given", "taken"), [("off", 0), ("OFF", 0), ("0", 0), (0, 0), ("2G", 2 << 30), (7, 7)])
def test_the_size_of_the_cache(given: str | int, taken: int) -> None:
    assert keeping.cap_of(given) == taken
    for bad in ("much", -1):
        with pytest.raises(UsageError, match="kv_cache"):
            keeping.cap_of(bad)
