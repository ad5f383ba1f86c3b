"""The ONNX engine against the GGUF engine on the same weights, and against its own promises. Plain ONNX Runtime: what
our operators change is tested in test_ort_pool.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx_packages import small_package

from edgeinfer.engines import EngineConfig, open_engine, ort_open
from edgeinfer.engines.base import Engine, ForwardCancelled, Slice
from edgeinfer.engines.ort import OrtEngine
from edgeinfer.engines.ort_open import open_onnx
from edgeinfer.errors import EngineError, FormatError, UnsupportedModel

CONFIG = EngineConfig(n_ctx=256, n_seq_max=3, n_threads=2, isolate=True, kernels=False)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
IDS = np.random.default_rng(3).integers(0, 300, 200).astype(np.int32)

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small_package(tmp_path_factory.mktemp("packages"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small_package(tmp_path_factory.mktemp("packages"), "llama")


@pytest.fixture(scope="module")
def shared(llama: tuple[Path, Path]) -> Iterator[OrtEngine]:
    engine = open_onnx(llama[1], CONFIG)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared: OrtEngine) -> OrtEngine:
    for seq in range(shared.n_seq_max):
        shared.release(seq)
    shared.interrupt(False)
    return shared


def rows(engine: Engine, n: int, *, seq: int = 0, n_logits: int | None = None) -> Floats:
    """Logits of the tokens from where the sequence ends up to ``n``."""
    begin = engine.length(seq)
    wanted = n - begin if n_logits is None else n_logits
    found: Floats = engine.forward([Slice(seq, IDS[begin:n], begin, wanted)]).copy()
    return found


def divergence(a: Floats, b: Floats) -> float:
    """The mean KL divergence of b from a."""
    logs = []
    for logits in (a, b):
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        logs.append(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())


# ---- what it computes


def test_logits_are_those_of_the_gguf_engine(pair: tuple[Path, Path]) -> None:
    """The same weights, so but for rounding the same answers; 32 tokens are gemma3's window."""
    found = []
    for path in pair:
        engine = open_engine("auto", path, CONFIG)
        found.append(rows(engine, 100))
        engine.close()
    assert divergence(*found) < 0.02
    assert (found[0].argmax(axis=1) == found[1].argmax(axis=1)).mean() > 0.85


def test_bits_do_not_depend_on_how_tokens_come(pair: tuple[Path, Path]) -> None:
    """Alone, in pairs, as a draft, in chunks, with logits of all or of the last; after going back."""
    engine = open_onnx(pair[1], CONFIG)
    whole = rows(engine, 60)
    engine.truncate(0, 40)
    for n in (41, 42, 44, 49, 60):
        begin = engine.length(0)
        assert np.array_equal(rows(engine, n), whole[begin:n])
    for cut in (1, 2, 7, 33):
        engine.release(0)
        while engine.length(0) < 60:
            end = min(60, engine.length(0) + cut)
            assert np.array_equal(rows(engine, end, n_logits=1)[0], whole[end - 1])
    engine.close()


def test_company_and_places_change_no_bit(engine: OrtEngine) -> None:
    alone = rows(engine, 50)
    for seq in (1, 2):
        rows(engine, 30 * seq, seq=seq)
    engine.release(0)
    rows(engine, 49)
    parts = [Slice(1, IDS[30:34], 30, 4), Slice(0, IDS[49:50], 49, 1), Slice(2, IDS[60:61], 60, 0)]
    together = engine.forward(parts)
    assert together.shape == (5, engine.n_vocab)
    assert np.array_equal(together[4], alone[49])
    assert engine.length(2) == 61


def test_two_thread_counts(llama: tuple[Path, Path], engine: OrtEngine) -> None:
    wanted = rows(engine, 20)
    other = open_onnx(llama[1], replace(CONFIG, n_threads=1, n_threads_batch=2))
    assert np.array_equal(rows(other, 19), wanted[:19])
    assert np.array_equal(rows(other, 20), wanted[19:])
    other.set_threads(2, 1)
    other.truncate(0, 12)
    assert np.array_equal(rows(other, 20), wanted[12:])
    other.close()
    other.close()


def test_hidden_states(pair: tuple[Path, Path]) -> None:
    states = []
    for path in pair:
        engine = open_engine("auto", path, CONFIG)
        states.append(engine.embed(1, IDS[:200]))
        assert engine.length(1) == 0
        engine.close()
    assert states[0].shape == states[1].shape == (200, 256)
    a, b = states
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.median(cosine) > 0.99


def test_embedding_leaves_other_sequences_alone(engine: OrtEngine) -> None:
    whole = rows(engine, 30)
    engine.truncate(0, 20)
    engine.embed(1, IDS[:9])
    assert np.array_equal(rows(engine, 30), whole[20:])


def test_attention_in_half_precision(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As GPUs have it; the CPU's kernel takes it too."""
    single = open_onnx(pair[1], CONFIG)
    wanted = rows(single, 100)
    state = single.export_sequence(0)
    single.close()
    monkeypatch.setattr(ort_open, "_HALF", ("cpu",))
    engine = open_onnx(pair[1], CONFIG)
    found = rows(engine, 100)
    assert not np.array_equal(found, wanted)
    assert divergence(wanted, found) < 0.02
    engine.truncate(0, 50)
    saved = engine.export_sequence(0)
    assert len(saved) < len(state) / 3
    engine.import_sequence(1, saved, 50)
    assert np.array_equal(rows(engine, 100, seq=1), found[50:])
    with pytest.raises(FormatError, match="another engine, layout or model"):
        engine.import_sequence(1, state, 100)
    engine.close()


# ---- sequences


def test_fork_truncate_and_release(engine: OrtEngine) -> None:
    whole = rows(engine, 40)
    assert engine.fork(0, 1, 25) == 25
    engine.release(0)
    assert np.array_equal(rows(engine, 40, seq=1), whole[25:])
    assert engine.fork(0, 2, 10) == 0
    assert engine.truncate(1, 50) == 40
    assert engine.truncate(1, -3) == 0
    assert [engine.length(seq) for seq in range(3)] == [0, 0, 0]


def test_a_sequence_survives_export_and_import(llama: tuple[Path, Path], engine: OrtEngine) -> None:
    whole = rows(engine, 40)
    engine.truncate(0, 33)
    state = bytes(engine.export_sequence(0))
    engine.import_sequence(2, memoryview(state), 33)
    assert np.array_equal(rows(engine, 40, seq=2), whole[33:])
    other = open_onnx(llama[1], replace(CONFIG, n_ctx=64, n_seq_max=1))
    other.import_sequence(0, memoryview(state), 33)
    assert np.array_equal(rows(other, 40), whole[33:])
    other.close()


@pytest.mark.parametrize("damage", ["truncated", "zeros", "empty", "other length", "longer", "other model"])
def test_a_foreign_state_is_refused_and_harms_nobody(engine: OrtEngine, tmp_path: Path, damage: str) -> None:
    wanted = rows(engine, 30)
    state = bytes(engine.export_sequence(0))
    bad = {"truncated": state[:-1], "zeros": bytes(len(state)), "empty": b"", "longer": state + b"\0"}.get(
        damage, state
    )
    if damage == "other model":
        other = open_onnx(small_package(tmp_path, "llama", seed=7)[1], CONFIG)
        rows(other, 30)
        bad = bytes(other.export_sequence(0))
        other.close()
    with pytest.raises(FormatError, match="saved sequence"):
        engine.import_sequence(1, memoryview(bad), 31 if damage == "other length" else 30)
    assert engine.length(1) == 0
    engine.truncate(0, 20)
    assert np.array_equal(rows(engine, 30), wanted[20:])


# ---- what is refused, and what stops


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Slice(0, IDS[:10], 5), "does not hold 5"),
        (Slice(9, IDS[:10], 0), "does not hold"),
        (Slice(0, IDS[:0], 0), "does not fit"),
        (Slice(0, np.zeros(600, np.int32), 0), "at most 512"),
        (Slice(0, np.zeros(300, np.int32), 0), "context of 256"),
        (Slice(0, np.array([-1], np.int32), 0), "vocabulary"),
        (Slice(0, np.array([1, 300], np.int32), 0), "vocabulary"),
        (Slice(0, IDS[:3], 0, 4), "does not fit"),
    ],
)
def test_what_kernels_would_not_notice_is_refused(engine: OrtEngine, part: Slice, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine.forward([part])
    assert rows(engine, 4).shape == (4, 300)


def test_an_interrupted_pass_leaves_no_trace(engine: OrtEngine) -> None:
    wanted = rows(engine, 30)
    engine.truncate(0, 20)
    engine.interrupt(True)
    with pytest.raises(ForwardCancelled):
        rows(engine, 30)
    with pytest.raises(ForwardCancelled):
        engine.embed(1, IDS[:5])
    assert engine.length(0) == 20
    engine.interrupt(False)
    assert np.array_equal(rows(engine, 30), wanted[20:])


def test_interrupt_ends_a_pass_that_runs(llama: tuple[Path, Path]) -> None:
    """From another thread, at whatever moment: in one of many passes."""
    engine = open_onnx(llama[1], replace(CONFIG, n_ctx=2048, n_batch=2048))
    ids = np.resize(IDS, 2000)
    threading.Timer(0.05, engine.interrupt, [True]).start()

    def for_ever() -> None:
        while True:
            engine.release(0)
            engine.forward([Slice(0, ids, 0, 0)])

    with pytest.raises(ForwardCancelled):
        for_ever()
    assert engine.length(0) == 0
    engine.interrupt(False)
    assert engine.forward([Slice(0, ids[:9], 0, 1)]).shape == (1, 300)
    engine.close()


def test_threads_sleep_between_passes(engine: OrtEngine) -> None:
    rows(engine, 30)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.15


def test_the_last_position_of_all(llama: tuple[Path, Path]) -> None:
    """There is no position after it that a second row could have."""
    engine = open_onnx(llama[1], replace(CONFIG, n_ctx=2048, n_batch=2048))
    ids = np.resize(IDS, 2048)
    engine.forward([Slice(0, ids[:2047], 0, 0)])
    assert np.isfinite(engine.forward([Slice(0, ids[2047:], 2047, 1)])).all()
    with pytest.raises(EngineError, match="context of 2048"):
        engine.forward([Slice(0, ids[:1], 2048, 1)])
    engine.close()


def test_a_context_beyond_the_positions(llama: tuple[Path, Path]) -> None:
    with pytest.raises(UnsupportedModel, match="positions for 2048 tokens"):
        open_onnx(llama[1], replace(CONFIG, n_ctx=4096))
