"""The llama.cpp engine against llama.cpp itself, called directly, and against its own promises."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer import kernels
from edgeinfer.engines import EngineConfig, open_engine
from edgeinfer.engines.base import Engine, ForwardCancelled, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine
from edgeinfer.errors import BackendUnavailable, EngineError, FormatError, UsageError

pytestmark = pytest.mark.model

TokenIds = npt.NDArray[np.int32]
CONFIG = EngineConfig(n_ctx=2048, n_seq_max=4, n_cells=2048, n_threads=2)


@pytest.fixture(scope="module")
def shared(smollm2: Path) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(smollm2, CONFIG)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared: LlamaCppEngine) -> LlamaCppEngine:
    for seq in range(shared.n_seq_max):
        shared.release(seq)
    shared.interrupt(False)
    return shared


def ids(n: int, seed: int = 0) -> TokenIds:
    return np.random.default_rng(seed).integers(100, 48000, n).astype(np.int32)


def read(engine: Engine, seq: int, tokens: TokenIds) -> npt.NDArray[np.float32]:
    """Logits after the last token, computed in passes of 512."""
    rows: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)
    for begin in range(engine.length(seq), len(tokens), 512):
        rows = engine.forward([Slice(seq, tokens[begin : begin + 512], begin, 1)])
    last: npt.NDArray[np.float32] = rows[0].copy()
    return last


class Bare:
    """llama-cpp-python's low-level calls with nothing of ours: what the engine's numbers must equal."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = 2048, 4, True
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 2
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def forward(self, parts: list[tuple[int, TokenIds, int, int]]) -> npt.NDArray[np.float32]:
        i = 0
        n_rows = 0
        for seq, tokens, n_past, n_logits in parts:
            for j, token in enumerate(tokens):
                self.batch.token[i], self.batch.pos[i] = int(token), n_past + j
                self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, seq
                self.batch.logits[i] = j >= len(tokens) - n_logits
                i += 1
            n_rows += n_logits
        self.batch.n_tokens = i
        assert llama_cpp.llama_decode(self.context, self.batch) == 0
        rows: Any = llama_cpp.llama_get_logits(self.context)
        logits: npt.NDArray[np.float32] = np.ctypeslib.as_array(rows, (n_rows, self.n_vocab)).copy()
        return logits

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def test_logits_equal_bare_calls_exactly(engine: LlamaCppEngine, smollm2: Path) -> None:
    """Same batch boundaries, same bits: prompts, mixed steps of several sequences, and decoding."""
    bare = Bare(smollm2)
    tokens = ids(700)
    steps: list[list[tuple[int, TokenIds, int, int]]] = [
        [(0, tokens[:512], 0, 1)],
        [(0, tokens[512:600], 512, 88)],
        [(0, tokens[600:601], 600, 1), (1, tokens[:100], 0, 1)],
        *([(0, tokens[601 + i : 602 + i], 601 + i, 1), (1, tokens[100 + i : 101 + i], 100 + i, 1)] for i in range(5)),
    ]
    try:
        for parts in steps:
            wanted = bare.forward(parts)
            assert np.array_equal(engine.forward([Slice(*part) for part in parts]), wanted)
    finally:
        bare.close()


def test_logits_are_a_view(engine: LlamaCppEngine) -> None:
    rows = engine.forward([Slice(0, ids(8), 0, 3)])
    assert rows.shape == (3, engine.n_vocab)
    assert not rows.flags.owndata
    assert engine.forward([Slice(0, ids(8), 8, 0)]).shape == (0, engine.n_vocab)


def test_truncate_and_fork_go_back_in_time(engine: LlamaCppEngine) -> None:
    tokens = ids(200)
    before = read(engine, 0, tokens[:100])
    read(engine, 0, tokens)
    assert engine.truncate(0, 99) == 99
    after = engine.forward([Slice(0, tokens[99:100], 99, 1)])[0].copy()
    assert engine.fork(0, 1, 99) == 99
    forked = engine.forward([Slice(1, tokens[99:100], 99, 1)])[0]
    assert np.array_equal(after, forked)
    assert np.argmax(before) == np.argmax(after)
    engine.release(0)
    assert (engine.length(0), engine.length(1)) == (0, 100)
    assert engine.fork(0, 1, 50) == 0


def test_a_sequence_survives_export_and_import(engine: LlamaCppEngine) -> None:
    tokens = ids(150)
    read(engine, 0, tokens[:140])
    state = engine.export_sequence(0)
    original = engine.forward([Slice(0, tokens[140:141], 140, 1)])[0].copy()
    # llama.cpp's own attention rounds by where in the cache a sequence lies: leave it the same place.
    engine.release(0)
    engine.import_sequence(2, state, 140)
    assert np.array_equal(engine.forward([Slice(2, tokens[140:141], 140, 1)])[0], original)


@pytest.mark.parametrize("damage", ["truncated", "zeros", "empty", "other length"])
def test_a_foreign_state_is_refused_and_harms_nobody(engine: LlamaCppEngine, damage: str) -> None:
    tokens = ids(60)
    wanted = read(engine, 0, tokens)
    state = bytes(engine.export_sequence(0))
    bad = {"truncated": state[: len(state) // 2], "zeros": bytes(len(state)), "empty": b"", "other length": state}[
        damage
    ]
    with pytest.raises(FormatError):
        engine.import_sequence(1, memoryview(bad), 61 if damage == "other length" else 60)
    assert engine.length(1) == 0
    engine.release(0)
    assert np.array_equal(read(engine, 0, tokens), wanted)


def test_interrupt_ends_a_long_prefill(smollm2: Path) -> None:
    """Within 250 ms of the call, unless others keep the machine from it each time, and the engine is as good as
    before."""
    engine = LlamaCppEngine(smollm2, EngineConfig(n_ctx=8192, n_threads=2))
    took = []
    try:
        wanted = read(engine, 0, ids(40))
        engine.release(0)
        for _ in range(3):
            raised = 0.0

            def interrupt() -> None:
                nonlocal raised
                raised = time.perf_counter()
                engine.interrupt(True)

            n_before = engine.length(0)
            threading.Timer(0.5, interrupt).start()
            with pytest.raises(ForwardCancelled):
                read(engine, 0, ids(8000))
            took.append(time.perf_counter() - raised)
            assert engine.length(0) % 512 == 0
            assert engine.length(0) >= n_before
            engine.interrupt(False)
        assert min(took) < 0.25
        engine.release(0)
        assert np.array_equal(read(engine, 0, ids(40)), wanted)
    finally:
        engine.close()


def test_interrupt_works_without_our_library(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "available", lambda: False)
    engine = LlamaCppEngine(smollm2, CONFIG)
    engine.interrupt(True)
    with pytest.raises(ForwardCancelled):
        engine.forward([Slice(0, ids(8), 0, 1)])
    engine.interrupt(False)
    assert engine.forward([Slice(0, ids(8), 0, 1)]).shape == (1, engine.n_vocab)
    engine.close()
    engine.close()


def test_embeddings(engine: LlamaCppEngine) -> None:
    tokens = ids(700)
    states = engine.embed(3, tokens)
    assert states.shape == (700, engine.n_embd)
    assert engine.length(3) == 0
    again = engine.embed(3, tokens[:20])  # in another batch, so llama.cpp rounds otherwise
    cosine = (again * states[:20]).sum(1) / np.linalg.norm(again, axis=1) / np.linalg.norm(states[:20], axis=1)
    assert cosine.min() > 0.98


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Slice(0, ids(10), 5), "does not hold 5"),
        (Slice(9, ids(10), 0), "does not hold"),
        (Slice(0, ids(0), 0), "does not fit"),
        (Slice(0, ids(600), 0), "at most 512"),
        (Slice(0, np.array([-1], np.int32), 0), "vocabulary"),
        (Slice(0, np.array([10**6], np.int32), 0), "vocabulary"),
        (Slice(0, ids(3), 0, 4), "does not fit"),
    ],
)
def test_what_would_abort_the_process_is_refused(engine: LlamaCppEngine, part: Slice, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine.forward([part])
    assert engine.forward([Slice(0, ids(4), 0, 1)]).shape == (1, engine.n_vocab)


def test_a_context_smaller_than_the_number_of_sequences(smollm2: Path) -> None:
    """llama.cpp ended the process: its batch of n_ctx tokens had no room for one of each sequence."""
    engine = LlamaCppEngine(smollm2, EngineConfig(n_ctx=1, n_seq_max=9, n_cells=1, n_threads=1))
    try:
        assert engine.forward([Slice(8, ids(1), 0)]).shape == (1, engine.n_vocab)
    finally:
        engine.close()


@pytest.mark.parametrize("name", ["n_threads", "n_threads_batch"])
def test_more_threads_than_ggml_has_room_for(name: str) -> None:
    """It wrote past the end of its list of threads, and the process was gone."""
    with pytest.raises(UsageError, match=f"{name} is 513, but must be at most 512"):
        EngineConfig(**{name: 513})  # type: ignore[arg-type]


def test_quantized_kv_and_single_batch_tokens(smollm2: Path) -> None:
    engine = LlamaCppEngine(smollm2, EngineConfig(n_ctx=512, kv_type="q8_0", n_batch=32, n_threads=1))
    try:
        for begin in range(0, 96, 32):
            rows = engine.forward([Slice(0, ids(96)[begin : begin + 32], begin, 1)])
        assert np.isfinite(rows).all()
    finally:
        engine.close()


def test_a_file_that_llama_cpp_refuses(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(FormatError, match=r"bad\.gguf: llama\.cpp cannot load"):
        LlamaCppEngine(path, CONFIG)


def test_unknown_engines_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="llamacpp"):
        open_engine("lamacpp", tmp_path, CONFIG)


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgeinfer.engines as engines

    monkeypatch.setitem(engines.ENGINES, "other", ("edgeinfer.no_such_module:Engine", "otherpackage"))
    with pytest.raises(BackendUnavailable, match="pip install otherpackage"):
        open_engine("other", tmp_path, CONFIG)


def test_bare_llama_log_stays_off_the_terminal(smollm2: Path, capfd: pytest.CaptureFixture[str]) -> None:
    LlamaCppEngine(smollm2, CONFIG).close()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
