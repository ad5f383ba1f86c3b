"""The ONNX engine with our operators: the same bits in any company, from any cells, through forks and saved states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx_packages import small_package

from edgeinfer.engines import EngineConfig, open_engine
from edgeinfer.engines.base import ForwardCancelled, Slice
from edgeinfer.engines.ort import OrtEngine
from edgeinfer.engines.ort_open import open_onnx
from edgeinfer.errors import EngineError, FormatError
from edgeinfer.onnx import operators

pytestmark = pytest.mark.skipif(bool(operators.why_not()), reason=f"without our operators: {operators.why_not()}")

CONFIG = EngineConfig(n_ctx=256, n_seq_max=4, n_cells=512, n_threads=2)
IDS = np.random.default_rng(3).integers(0, 300, (4, 200)).astype(np.int32)

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gemma3"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small_package(tmp_path_factory.mktemp("packages"), request.param)


@pytest.fixture
def engine(pair: tuple[Path, Path]) -> Iterator[OrtEngine]:
    engine = open_onnx(pair[1], CONFIG)
    yield engine
    engine.close()


def part(engine: OrtEngine, seq: int, n: int, text: int = 0, n_logits: int = 1) -> Slice:
    begin = engine.length(seq)
    return Slice(seq, IDS[text, begin : begin + n], begin, n_logits)


def test_logits_are_those_of_the_gguf_engine(pair: tuple[Path, Path]) -> None:
    """Both run our kernels, over the same blocks."""
    rows = []
    for path in pair:
        engine = open_engine("auto", path, CONFIG)
        rows.append(engine.forward([Slice(0, IDS[0, :100], 0, 100)]).copy())
        engine.close()
    assert (rows[0].argmax(axis=1) == rows[1].argmax(axis=1)).mean() > 0.9
    assert np.abs(rows[0] - rows[1]).max() < 0.25 * np.abs(rows[0]).max()


def test_company_changes_no_bit(engine: OrtEngine) -> None:
    """Four sequences in passes of all of them, cut anyhow, against each alone; more than gemma3's window."""
    alone = []
    for text in range(4):
        alone.append(engine.forward([Slice(0, IDS[text, :90], 0, 90)]).copy())
        engine.release(0)
    rng = np.random.default_rng(1)
    while any(engine.length(seq) < 90 for seq in range(4)):
        order = rng.permutation(4)
        parts = []
        for seq in order.tolist():
            n = min(int(rng.integers(1, 20)), 90 - engine.length(seq))
            if n:
                parts.append(part(engine, seq, n, text=seq, n_logits=int(rng.integers(0, n + 1))))
        ends = {each.seq: each.n_past + len(each.token_ids) for each in parts}
        rows = engine.forward(parts)
        begin = 0
        for each in parts:
            wanted = alone[each.seq][ends[each.seq] - each.n_logits : ends[each.seq]]
            assert np.array_equal(rows[begin : begin + each.n_logits], wanted)
            begin += each.n_logits


def test_forks_share_cells_and_go_their_own_ways(engine: OrtEngine) -> None:
    whole = engine.forward([Slice(0, IDS[0, :60], 0, 60)]).copy()
    assert engine.fork(0, 1, 40) == 40
    assert engine.fork(1, 2, 20) == 20
    assert engine.truncate(0, 10) == 10
    engine.forward([part(engine, 0, 30, text=1)])  # over cells of its own, not those that the forks still have
    rows = engine.forward([part(engine, 1, 20, n_logits=20), part(engine, 2, 40, n_logits=40)])
    assert np.array_equal(rows[:20], whole[40:])
    assert np.array_equal(rows[20:], whole[20:])


def test_the_pool_has_an_end(pair: tuple[Path, Path]) -> None:
    engine = open_onnx(pair[1], replace(CONFIG, n_cells=100))
    engine.forward([Slice(0, IDS[0, :60], 0, 1)])
    assert engine.fork(0, 1, 60) == 60
    with pytest.raises(EngineError, match="no free KV cells"):
        engine.forward([part(engine, 1, 30), part(engine, 2, 30)])
    assert [engine.length(seq) for seq in range(3)] == [60, 60, 0]
    assert engine.forward([part(engine, 1, 40)]).shape == (1, 300)
    engine.close()


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_a_sequence_survives_export_and_import(pair: tuple[Path, Path], kv_type: str) -> None:
    engine = open_onnx(pair[1], replace(CONFIG, kv_type=kv_type))  # type: ignore[arg-type]
    engine.forward([part(engine, 3, 50, text=3)])
    whole = engine.forward([Slice(0, IDS[0, :60], 0, 60)]).copy()
    engine.truncate(0, 45)
    state = bytes(engine.export_sequence(0))
    engine.release(3)
    engine.import_sequence(2, memoryview(state), 45)
    assert np.array_equal(engine.forward([part(engine, 2, 15, n_logits=15)]), whole[45:])
    for bad in (state[:-1], state + b"\0", b"", bytes(len(state))):
        with pytest.raises(FormatError, match="saved sequence"):
            engine.import_sequence(1, memoryview(bad), 45)
        assert engine.length(1) == 0
    engine.close()


def test_a_state_of_another_type_is_refused(pair: tuple[Path, Path], engine: OrtEngine) -> None:
    engine.forward([part(engine, 0, 20)])
    other = open_onnx(pair[1], replace(CONFIG, kv_type="q8_0"))
    with pytest.raises(FormatError, match="another engine, layout or model"):
        other.import_sequence(0, engine.export_sequence(0), 20)
    other.close()


def test_threads_change_no_bit(engine: OrtEngine) -> None:
    whole = engine.forward([Slice(0, IDS[0, :60], 0, 60)]).copy()
    engine.set_threads(1, 2)
    engine.truncate(0, 30)
    assert np.array_equal(engine.forward([part(engine, 0, 30, n_logits=30)]), whole[30:])
    engine.set_threads(2, 1)
    engine.truncate(0, 59)
    assert np.array_equal(engine.forward([part(engine, 0, 1)]), whole[59:])


def test_hidden_states(pair: tuple[Path, Path], engine: OrtEngine) -> None:
    states = engine.embed(1, IDS[0])
    assert states.shape == (200, 256)
    gguf = open_engine("auto", pair[0], CONFIG)
    other = gguf.embed(1, IDS[0])
    gguf.close()
    cosine = (states * other).sum(axis=1) / np.linalg.norm(states, axis=1) / np.linalg.norm(other, axis=1)
    assert np.median(cosine) > 0.99
    assert np.array_equal(engine.embed(2, IDS[0, :7]), states[:7])


def test_an_interrupted_pass_leaves_no_trace(engine: OrtEngine) -> None:
    whole = engine.forward([Slice(0, IDS[0, :60], 0, 60)]).copy()
    engine.truncate(0, 50)
    engine.interrupt(True)
    with pytest.raises(ForwardCancelled):
        engine.forward([part(engine, 0, 10), part(engine, 1, 10)])
    assert [engine.length(seq) for seq in range(2)] == [50, 0]
    engine.interrupt(False)
    assert np.array_equal(engine.forward([part(engine, 0, 10, n_logits=10)]), whole[50:])
