"""Models of several kinds over our kernels: mixtures of experts, LoRA, types we do not have, several at once."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType, dequantize
from gguf_files import File
from tiny_models import TYPES, lora_adapter, runnable

from edgeinfer import LLM, gguf, kernels
from edgeinfer.coverage import coverage
from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.skipif(not kernels.expected().active, reason=f"without our kernels: {kernels.expected().why}")

Logits = npt.NDArray[np.float32]
IDS = np.random.default_rng(7).integers(10, 290, 48).astype(np.int32)
FORMATS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q4_K", "Q5_K", "Q6_K")


@contextmanager
def opened(path: Path, *, ours: bool = True, n_threads: int = 2) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(path, EngineConfig(n_ctx=256, n_seq_max=4, n_threads=n_threads, kernels=ours))
    try:
        yield engine
    finally:
        engine.close()


def logits(engine: LlamaCppEngine, m: int = len(IDS), seq: int = 0) -> Logits:
    """Of every position, M at a time."""
    engine.release(seq)
    parts = [IDS[i : i + m] for i in range(0, len(IDS), m)]
    return np.concatenate([engine.forward([Slice(seq, part, m * i, len(part))]).copy() for i, part in enumerate(parts)])


def distance(a: Logits, b: Logits) -> float:
    """How far apart, in parts of what they spread: the median over positions."""
    return float(np.median(np.linalg.norm(a - b, axis=1) / np.linalg.norm(b - b.mean(axis=1, keepdims=True), axis=1)))


def written(made: File, folder: Path, name: str = "tiny.gguf") -> Path:
    return made.write(folder / name)


def ours_as_stock(path: Path, tolerance: float) -> None:
    """Ours does not depend on the batch or the threads, and is near stock's, yet not the same."""
    with opened(path, ours=False) as engine:
        stock = logits(engine)
    with opened(path) as engine:
        ours = logits(engine)
        for m in (1, 2, 3, 5, 8, 16, 31):
            assert np.array_equal(logits(engine, m), ours), m
        engine.set_threads(1, 1)
        assert np.array_equal(logits(engine, 7, seq=2), ours)
    assert 0 < distance(ours, stock) < tolerance


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_of_one_type(tmp_path: Path, name: str) -> None:
    # Stock rounds activations to 8 bits as well, for F16 and BF16 to those types; for F32 it does not round.
    ours_as_stock(written(runnable(default=name), tmp_path), 1e-2 if name in ("F32", "F16", "BF16") else 0.03)


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "F16"])
def test_a_mixture_of_experts(tmp_path: Path, name: str) -> None:
    """Two of four experts for each token, so several tokens share one or have none."""
    path = written(runnable(default=name, n_experts=4), tmp_path)
    file = gguf.read(path)
    assert {t.type.name for t in file.tensors.values() if "_exps" in t.name} == {name}
    assert coverage(file, kernels.install()).same_answers
    ours_as_stock(path, 0.03)


def in_floats(made: File) -> File:
    """The same weights, written out."""
    tensors = []
    for tensor in made.tensors:
        if tensor.type not in (TYPES["F32"], TYPES["F16"]):
            values = dequantize(np.frombuffer(tensor.data or b"", np.uint8), GGMLQuantizationType(tensor.type))
            tensor = replace(tensor, type=TYPES["F32"], data=values.astype(np.float32).tobytes())
        tensors.append(tensor)
    return replace(made, tensors=tensors)


@pytest.mark.parametrize("n_experts", [0, 4])
def test_where_weights_have_eight_bits_inputs_have_more(tmp_path: Path, n_experts: int) -> None:
    """What rounding inputs costs: next to nothing, but where some other product has rounded its weights anyhow."""
    off = {}
    for kind in ("Q8_0", "F16", "Q6_K"):
        made = runnable({"attn_output": kind}, n_experts=n_experts)
        found = []
        for path in (written(made, tmp_path, "a.gguf"), written(in_floats(made), tmp_path, "b.gguf")):
            with opened(path) as engine:
                found.append(logits(engine))
        off[kind] = distance(*found)
    assert off["Q8_0"] < 1e-3
    assert off["F16"] < 1e-3
    assert off["Q6_K"] > 5e-3


def test_tensors_that_we_do_not_take_stay_with_llama_cpp(tmp_path: Path) -> None:
    """Q2_K and IQ4_XS beside types of ours: the model runs, nearly as stock has it, and one line says what is left."""
    path = written(runnable({"attn_q": "Q2_K", "ffn_up": "IQ4_XS", "ffn_down": "Q6_K"}), tmp_path)
    covered = coverage(gguf.read(path), kernels.install())
    assert {name for name, isa in covered.types.items() if isa == "llama.cpp"} == {"Q2_K", "IQ4_XS"}
    assert covered.types["Q8_0"] == kernels.matmul_isa(8)
    assert not covered.same_answers
    with opened(path, ours=False) as engine:
        stock = logits(engine)
    with opened(path) as engine:
        assert 0 < distance(logits(engine), stock) < 0.05
    for n_parallel in (1, 2):
        with LLM(str(path), n_ctx=256, n_parallel=n_parallel) as llm:
            assert llm.generate(IDS.tolist(), max_tokens=4, temperature=0.0).stats.n_generated == 4
            assert len(llm.notices) == 1
            assert "our kernels do not take Q2_K, IQ4_XS" in llm.notices[0]


@pytest.mark.parametrize("name", ["attn_q", "ffn_down", "output"])
def test_one_tensor_that_is_left_is_the_only_one(tmp_path: Path, name: str) -> None:
    covered = coverage(gguf.read(written(runnable({name: "Q2_K"}), tmp_path)), kernels.install())
    assert covered.why_not == "our kernels do not take Q2_K"


def test_models_side_by_side(tmp_path: Path) -> None:
    """Loaded at the same time on two threads, one with our kernels and one without, and used in turn: each gives the
    bits that it gives alone."""
    paths = {True: written(runnable(seed=1), tmp_path, "a.gguf"), False: written(runnable(seed=2), tmp_path, "b.gguf")}
    assert kernels.install().active
    alone = {}
    for ours, path in paths.items():
        with opened(path, ours=ours) as engine:
            alone[ours] = logits(engine)
    with opened(paths[False]) as engine:
        assert not np.array_equal(logits(engine), alone[False])  # so the two kinds can be told apart
    for _ in range(3):
        engines: dict[bool, LlamaCppEngine] = {}
        together = threading.Barrier(2)

        def load(
            ours: bool, together: threading.Barrier = together, engines: dict[bool, LlamaCppEngine] = engines
        ) -> None:
            together.wait()
            engines[ours] = LlamaCppEngine(paths[ours], EngineConfig(n_ctx=256, n_seq_max=4, n_threads=2, kernels=ours))

        loaders = [threading.Thread(target=load, args=(ours,)) for ours in paths]
        for loader in loaders:
            loader.start()
        for loader in loaders:
            loader.join()
        for ours in (True, False, True):
            assert np.array_equal(logits(engines[ours]), alone[ours])
        engines.pop(True).close()
        assert np.array_equal(logits(engines[False]), alone[False])
        engines.pop(False).close()


def test_a_model_switched_off_leaves_the_next_its_kernels(tmp_path: Path) -> None:
    """Also where the load of the first one fails half-way."""
    path, bad = written(runnable(), tmp_path), tmp_path / "bad.gguf"
    bad.write_bytes(path.read_bytes()[:-1000])
    with opened(path) as engine:
        ours = logits(engine)
    for wrong in (path, bad):
        try:
            with opened(wrong, ours=False) as engine:
                assert not np.array_equal(logits(engine), ours)
                assert wrong == path
        except Exception as error:
            assert wrong == bad, error  # noqa: PT017 - either outcome belongs to one of the two files
        with opened(path) as engine:
            assert np.array_equal(logits(engine), ours)


@contextmanager
def adapted(engine: LlamaCppEngine, path: Path, scale: float) -> Iterator[None]:
    adapter = llama_cpp.llama_adapter_lora_init(engine._model, str(path).encode())
    assert adapter
    one = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
    assert llama_cpp.llama_set_adapters_lora(engine._context, one, 1, (ctypes.c_float * 1)(scale)) == 0
    yield
    assert llama_cpp.llama_set_adapters_lora(engine._context, None, 0, None) == 0


def test_lora(tmp_path: Path) -> None:
    """An adapter on a matrix of ours does what it does to stock, and is gone when it is taken off."""
    path = written(runnable(), tmp_path)
    adapter = written(lora_adapter("blk.0.attn_output", 256, 256, size=4.0), tmp_path, "adapter.gguf")
    found = {}
    for ours in (False, True):
        with opened(path, ours=ours) as engine:
            plain = logits(engine)
            with adapted(engine, adapter, 1.0):
                found[ours] = logits(engine)
            assert distance(found[ours], plain) > 0.2
            assert np.array_equal(logits(engine), plain)
    assert 0 < distance(found[True], found[False]) < 0.05
