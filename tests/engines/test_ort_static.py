"""Graphs of fixed shapes, as NPUs take them, on ONNX Runtime's CPU provider: against the dynamic graph of the same
package, and against their own promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx_packages import damaged, rewritten, small_package

from edgeinfer import LLM
from edgeinfer.engines import EngineConfig, open_engine
from edgeinfer.engines.base import ForwardCancelled, Slice
from edgeinfer.engines.ort import OrtEngine
from edgeinfer.engines.ort_open import open_onnx
from edgeinfer.engines.ort_static import blocks, passes
from edgeinfer.errors import FormatError, UnsupportedModel

CONFIG = EngineConfig(n_ctx=192, n_seq_max=2, n_threads=2, isolate=True)
IDS = np.random.default_rng(3).integers(0, 300, 192).astype(np.int32)

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gemma3"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small_package(tmp_path_factory.mktemp("packages"), request.param, variant=("npu",), n_ctx=192)


@pytest.fixture
def engine(pair: tuple[Path, Path]) -> Iterator[OrtEngine]:
    engine = open_onnx(pair[1], CONFIG)
    yield engine
    engine.close()


def rows(engine: OrtEngine, n: int, *, seq: int = 0, n_logits: int | None = None) -> Floats:
    begin = engine.length(seq)
    found: Floats = engine.forward(
        [Slice(seq, IDS[begin:n], begin, n - begin if n_logits is None else n_logits)]
    ).copy()
    return found


def test_how_tokens_are_shared_out() -> None:
    assert list(passes(150, (1, 8, 64))) == [(64, 64), (64, 64), (64, 22)]
    assert list(passes(9, (1, 8, 64))) == [(64, 9)]
    assert list(passes(5, (1, 8, 64))) == [(8, 5)]
    assert list(passes(1, (1, 8, 64))) == [(1, 1)]
    assert list(passes(3, (1,))) == [(1, 1)] * 3
    assert list(blocks(64, 3, 8)) == [(64, 67)]
    assert list(blocks(67, 1, 8)) == [(64, 68)]
    assert list(blocks(70, 12, 8)) == [(64, 72), (72, 80), (80, 82)]


def test_logits_are_those_of_the_gguf_engine(pair: tuple[Path, Path], engine: OrtEngine) -> None:
    """Through all three graphs; 32 tokens are gemma3's window."""
    gguf = open_engine("auto", pair[0], CONFIG)
    wanted = gguf.forward([Slice(0, IDS[:120], 0, 120)]).copy()
    gguf.close()
    found = [rows(engine, n) for n in (64, 70, 71, 72, 120)]
    assert (np.concatenate(found).argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.85


def test_company_and_cuts_at_blocks_change_no_bit(engine: OrtEngine) -> None:
    whole = rows(engine, 150)
    rows(engine, 33, seq=1)
    engine.release(0)
    assert np.array_equal(rows(engine, 64), whole[:64])
    both = engine.forward([Slice(1, IDS[33:34], 33, 1), Slice(0, IDS[64:150], 64, 1)])
    assert np.array_equal(both[1], whole[149])


def test_drafts_change_no_bit(pair: tuple[Path, Path]) -> None:
    """Where they will be checked, one token is computed as several are, in the place that its position says; in a fork
    and after a restart, too."""
    engine = open_onnx(pair[1], replace(CONFIG, drafted=True))
    rows(engine, 67)
    single = np.concatenate([rows(engine, n) for n in range(68, 88)])
    for n in (2, 5, 8, 17):
        engine.truncate(0, 67)
        assert np.array_equal(rows(engine, 67 + n), single[:n])
    engine.truncate(0, 70)
    engine.fork(0, 1, 70)
    assert np.array_equal(rows(engine, 75, seq=1), single[3:8])
    state = bytes(engine.export_sequence(0))
    engine.release(0)
    engine.import_sequence(0, memoryview(state), 70)
    assert np.array_equal(rows(engine, 75), single[3:8])
    engine.close()


def test_sequences(engine: OrtEngine) -> None:
    whole = rows(engine, 120)
    assert engine.fork(0, 1, 64) == 64
    assert np.array_equal(rows(engine, 120, seq=1), whole[64:])
    engine.truncate(0, 64)
    state = bytes(engine.export_sequence(0))
    engine.release(1)
    engine.import_sequence(1, memoryview(state), 64)
    assert np.array_equal(rows(engine, 120, seq=1), whole[64:])
    for bad in (state[:-1], b"", bytes(len(state))):
        with pytest.raises(FormatError, match="saved sequence"):
            engine.import_sequence(1, memoryview(bad), 64)
    engine.interrupt(True)
    with pytest.raises(ForwardCancelled):
        rows(engine, 120)
    assert engine.length(0) == 64
    engine.interrupt(False)
    engine.set_threads(1, 1)
    assert np.array_equal(rows(engine, 120), whole[64:])


def test_hidden_states(pair: tuple[Path, Path], engine: OrtEngine) -> None:
    gguf = open_engine("auto", pair[0], CONFIG)
    a, b = engine.embed(1, IDS[:100]), gguf.embed(1, IDS[:100])
    gguf.close()
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.median(cosine) > 0.98


def test_through_the_front_door(pair: tuple[Path, Path]) -> None:
    """The context is that of the graphs; placement counts all three."""
    with LLM(str(pair[1]), require="cpu") as llm:
        assert llm.n_ctx == 192
        assert llm.placement is not None
        assert llm.placement.n_graphs == 3
        answer = llm.generate(IDS[:70].tolist(), max_tokens=8, temperature=0.0, ignore_eos=True)
        again = llm.generate(IDS[:70].tolist(), max_tokens=8, temperature=0.0, ignore_eos=True)
    assert answer.token_ids == again.token_ids


def test_a_longer_context_than_the_graphs_have(pair: tuple[Path, Path]) -> None:
    with pytest.raises(UnsupportedModel, match="made for 192 tokens, and a context of 256 is wanted; take -c 192"):
        open_onnx(pair[1], replace(CONFIG, n_ctx=256))


def test_what_a_package_must_have(pair: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    for name in ("shapes", "table"):
        shutil.copytree(pair[1], tmp_path / name)

    def wider(proto: object) -> None:
        proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 999  # type: ignore[attr-defined]

    rewritten(tmp_path / "shapes", wider, "npu/s8.onnx")
    with pytest.raises(FormatError, match=r"npu/s8\.onnx: input .* is FLOAT"):
        open_onnx(tmp_path / "shapes", CONFIG)
    damaged(tmp_path / "table", lambda manifest: manifest["variants"]["npu"]["files"].pop("npu/token_embd.gguf"))
    with pytest.raises(FormatError, match=r"has no token_embd\.gguf"):
        open_onnx(tmp_path / "table", CONFIG)
