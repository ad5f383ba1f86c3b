"""Models that are loaded a second time: the same bits from a mapped image as from weights that were packed just now."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import lora_adapter, runnable

from edgeinfer import LLM, gguf, kernels, memory
from edgeinfer import packed as packed_package
from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine
from edgeinfer.packed import store
from edgeinfer.packed.identity import Identity, identify

pytestmark = pytest.mark.skipif(not kernels.expected().active, reason=f"without our kernels: {kernels.expected().why}")

Logits = npt.NDArray[np.float32]
IDS = np.random.default_rng(5).integers(10, 290, 48).astype(np.int32)


@pytest.fixture(autouse=True)
def _switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "1")
    monkeypatch.setattr(store, "LEFT_FREE_BYTES", 0)


@contextmanager
def opened(path: Path, *, ours: bool = True) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(path, EngineConfig(n_ctx=256, n_seq_max=4, n_threads=2, kernels=ours))
    try:
        yield engine
        if engine._packed._writer is not None:
            engine._packed._writer._thread.join(60)
    finally:
        engine.close()


def logits(engine: LlamaCppEngine) -> Logits:
    engine.release(0)
    found: Logits = engine.forward([Slice(0, IDS, 0, len(IDS))]).copy()
    return found


def model(folder: Path, name: str = "m.gguf", default: str = "Q4_K", *, seed: int = 0, n_experts: int = 0) -> Path:
    path = runnable(default=default, seed=seed, n_experts=n_experts).write(folder / name)
    time.sleep(0.03)  # or it would be too new to be sure of
    return path


def first_load(path: Path) -> Logits:
    with opened(path) as engine:
        assert not engine._packed.mapped
        return logits(engine)


@pytest.mark.parametrize(("default", "n_experts"), [("Q4_K", 0), ("F16", 0), ("Q5_0", 0), ("Q6_K", 4)])
def test_the_second_load_is_the_first_bit_for_bit(tmp_path: Path, default: str, n_experts: int) -> None:
    path = model(tmp_path, default=default, n_experts=n_experts)
    packed = first_load(path)
    for _ in range(2):
        with opened(path) as engine:
            assert engine._packed.mapped
            assert engine.notices == ()
            assert np.array_equal(logits(engine), packed)


def test_smollm2(smollm2: Path) -> None:
    packed = first_load(smollm2)
    with opened(smollm2) as engine:
        assert engine._packed.mapped
        assert np.array_equal(logits(engine), packed)


def test_tensors_that_are_not_ours_lie_beside_those_that_are(tmp_path: Path) -> None:
    """What llama.cpp repacks itself is written into the mapping, in this process alone."""
    path = runnable({"attn_q": "Q2_K", "ffn_up": "IQ4_XS"}).write(tmp_path / "m.gguf")
    time.sleep(0.03)
    packed = first_load(path)
    before = next(store.folder().glob("*.bin")).read_bytes()
    with opened(path) as engine:
        assert engine._packed.mapped
        assert np.array_equal(logits(engine), packed)
    assert next(store.folder().glob("*.bin")).read_bytes() == before


def test_several_models_in_a_process(tmp_path: Path) -> None:
    paths = [model(tmp_path, f"{seed}.gguf", seed=seed) for seed in range(3)]
    packed = [first_load(path) for path in paths]
    assert store.usage().n_images == 3
    with opened(paths[0]) as a, opened(paths[1]) as b, opened(paths[0]) as again, opened(paths[2], ours=False) as stock:
        assert [e._packed.mapped for e in (a, b, again, stock)] == [True, True, True, False]
        for engine, expected in ((a, packed[0]), (b, packed[1]), (again, packed[0])):
            assert np.array_equal(logits(engine), expected)
        assert not np.array_equal(logits(stock), packed[2])
        a.close()
        assert np.array_equal(logits(again), packed[0])


def test_lora_on_a_mapped_model(tmp_path: Path) -> None:
    path = model(tmp_path, default="Q8_0")
    adapter = lora_adapter("blk.0.attn_output", 256, 256, size=4.0).write(tmp_path / "adapter.gguf")
    found = []
    for mapped in (False, True):
        with opened(path) as engine:
            assert engine._packed.mapped == mapped
            plain = logits(engine)
            lora = llama_cpp.llama_adapter_lora_init(engine._model, os.fsencode(adapter))
            one = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
            assert llama_cpp.llama_set_adapters_lora(engine._context, one, 1, (ctypes.c_float * 1)(1.0)) == 0
            found.append(logits(engine))
            assert not np.array_equal(found[-1], plain)
    assert np.array_equal(found[0], found[1])


def test_a_load_that_fails_leaves_the_next_its_image(tmp_path: Path) -> None:
    path = model(tmp_path)
    packed = first_load(path)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(path.read_bytes()[:-1000])
    time.sleep(0.03)
    with pytest.raises(Exception, match="bad"), opened(bad):
        pass
    assert store.usage().n_images == 1
    with opened(path) as engine:
        assert engine._packed.mapped
        assert np.array_equal(logits(engine), packed)


@pytest.mark.parametrize("how", ["switched off", "not mapped", "stock"])
def test_no_image_where_none_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    path = model(tmp_path)
    if how == "switched off":
        monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "0")
    config = EngineConfig(n_ctx=256, n_threads=2, kernels=how != "stock", use_mmap=how != "not mapped")
    engine = LlamaCppEngine(path, config)
    try:
        assert engine._packed._writer is None
    finally:
        engine.close()
    assert store.usage() == store.Usage(0, 0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_miss_that_is_said(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "m.gguf"
    if not path.exists():
        model(tmp_path)
        with opened(path) as engine:
            np.save(tmp_path / "packed.npy", logits(engine))
    packed = np.load(tmp_path / "packed.npy")
    with opened(path):  # an example before may have left none
        pass
    (stored,) = store.folder().glob("*.bin")
    size = stored.stat().st_size
    at = data.draw(st.integers(0, size - 1) | st.integers(0, 200))
    if data.draw(st.booleans()):
        os.truncate(stored, at)
    else:
        with stored.open("r+b") as stream:
            stream.seek(at)
            stream.write(data.draw(st.binary(min_size=1, max_size=100)))
    with opened(path) as engine:
        assert not engine._packed.mapped
        assert len(engine.notices) == 1
        assert "were removed, because they could not be used" in engine.notices[0]
        assert np.array_equal(logits(engine), packed)


def test_the_image_of_other_weights_does_harm_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a key to lie, the plug-in still compares each weight with the model's."""
    small, large = model(tmp_path, "s.gguf", default="Q8_0"), model(tmp_path, "l.gguf", default="Q4_K", seed=1)
    packed = first_load(large)
    first_load(small)
    of_large, of_small = (identified(path) for path in (large, small))
    monkeypatch.setattr(packed_package, "identify", lambda _path: of_small)
    with opened(large) as engine:
        assert not engine._packed.mapped
        assert "they are not those of this model" in engine.notices[0]
        assert np.array_equal(logits(engine), packed)
    assert store.image_path(of_large.key).exists()


def identified(path: Path) -> Identity:
    found = identify(path)
    assert found is not None
    return found


def test_the_user_hears_of_it(smollm2: Path) -> None:
    with opened(smollm2):
        pass
    (stored,) = store.folder().glob("*.bin")
    os.truncate(stored, 1000)
    with LLM(str(smollm2), n_ctx=256) as llm:
        (notice,) = llm.notices
    assert str(stored) in notice
    assert "\n" not in notice


def test_the_plan_knows(tmp_path: Path) -> None:
    path = model(tmp_path)
    file, config = gguf.read(path), EngineConfig(n_ctx=256)
    before = memory.plan(file, config)
    assert before.repacked_bytes > 0
    with opened(path):
        pass
    after = memory.plan(file, config)
    assert after.repacked_bytes == 0
    assert after.shared_bytes == before.shared_bytes + before.repacked_bytes == after.weights_bytes
    stock = memory.plan(file, EngineConfig(n_ctx=256, kernels=False))
    assert stock.repacked_bytes == memory.repacked_bytes(file, ours=False)


SHARED = """
import json, sys
import numpy as np
from pathlib import Path
from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine
engine = LlamaCppEngine(Path(sys.argv[1]), EngineConfig(n_ctx=256, n_threads=1))
ids = np.arange(100, 148).astype(np.int32)
found = engine.forward([Slice(0, ids, 0, len(ids))]).astype(np.float64).sum()
if engine._packed._writer is not None:
    engine._packed._writer._thread.join(60)
print(json.dumps([engine._packed.mapped, engine.notices, found]), flush=True)
sys.stdin.readline()
pss = [line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith(("Pss:", "Rss:", "Anonymous:"))]
print(json.dumps([int(n) << 10 for n in pss]), flush=True)
sys.stdin.readline()
engine.close()
"""


@contextmanager
def processes(path: Path, n: int) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-c", SHARED, str(path)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    try:
        yield running
    finally:
        for process in running:
            process.communicate("\n\n", timeout=60)
            assert process.returncode == 0


def said(process: subprocess.Popen[str]) -> list[object]:
    assert process.stdout is not None
    found: list[object] = json.loads(process.stdout.readline())
    return found


def ask(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return [int(str(n)) for n in said(process)]


@pytest.mark.model
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what is shared")
def test_two_processes(smollm2: Path) -> None:
    """Both load at once, and pack, and one of them writes; later both map the same pages."""
    with processes(smollm2, 2) as running:
        first = [said(process) for process in running]
    assert store.usage().n_images == 1
    assert {path.suffix for path in store.folder().iterdir()} == {"", ".bin"}
    with processes(smollm2, 2) as running:
        second = [said(process) for process in running]
        held = [ask(process) for process in running]
    assert [found[:2] for found in first] == [[False, []]] * 2
    assert [found[:2] for found in second] == [[True, []]] * 2
    assert len({str(found[2]) for found in first + second}) == 1
    for rss, pss, anonymous in held:
        assert rss - pss > 0.4 * smollm2.stat().st_size  # half of the weights is the other's
        assert anonymous < rss - 0.8 * smollm2.stat().st_size
