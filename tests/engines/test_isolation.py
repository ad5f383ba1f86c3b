"""Isolated sequences over llama.cpp's own kernels: the same bits alone, in company, in another place, however the
prompt was cut or come by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.model

N_DECODED = 4
TOKENS = np.random.default_rng(3).integers(100, 48000, (4, 1000)).astype(np.int32)


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(smollm2, EngineConfig(n_ctx=1024, n_seq_max=4, n_threads=2, isolate=True, kernels=False))
    yield engine
    engine.close()


def logits(engine: LlamaCppEngine, seq: int, n: int, cut: int, others: tuple[int, ...] = ()) -> npt.NDArray[np.float32]:
    """Logits after ``n`` tokens of prompt 0, read in parts of ``cut``, and after each of the next tokens one by one;
    each pass has one token of every one of ``others``, before ours and behind it."""
    rows = []
    ends = [*range(engine.length(seq) + cut, n, cut), n, *range(n + 1, n + 1 + N_DECODED)]
    for end in ends:
        begin = engine.length(seq)
        parts = [Slice(seq, TOKENS[0, begin:end], begin, 1)]
        for other in others:
            at = engine.length(other)
            parts.insert(other % 2, Slice(other, TOKENS[other, at : at + 1], at, 1))
        row = engine.forward(parts)[[part.seq for part in parts].index(seq)]
        if end >= n:
            rows.append(row.copy())
    return np.stack(rows)


@pytest.mark.parametrize("n", [5, 64, 100, 511, 700, 900])
def test_company_changes_no_bit(engine: LlamaCppEngine, n: int) -> None:
    for seq in range(4):
        engine.release(seq)
    alone = logits(engine, 0, n, cut=512)
    engine.release(0)
    for other in (1, 2):
        engine.forward([Slice(other, TOKENS[other, : 30 * other], 0, 1)])
    assert np.array_equal(logits(engine, 0, n, cut=64, others=(1, 2)), alone)
    assert np.array_equal(logits(engine, 3, n, cut=128), alone)  # in another stream


def test_a_forked_prefix_changes_no_bit(engine: LlamaCppEngine) -> None:
    for seq in range(4):
        engine.release(seq)
    alone = logits(engine, 0, 700, cut=512)
    assert engine.fork(0, 2, 640) == 640
    assert np.array_equal(logits(engine, 2, 700, cut=512), alone)


def test_a_small_batch_still_takes_a_block(smollm2: Path) -> None:
    engine = LlamaCppEngine(smollm2, EngineConfig(n_ctx=256, n_batch=1, n_threads=2, isolate=True, kernels=False))
    assert engine.n_batch == engine.block_size == 64
    engine.close()


def test_embeddings_of_more_than_a_block(engine: LlamaCppEngine) -> None:
    """They come from several passes; once those of the last alone were taken for all of them."""
    states = engine.embed(0, TOKENS[0, :150])
    assert np.array_equal(engine.embed(3, TOKENS[0, :64]), states[:64])
    assert len(np.unique(states[:, 0])) > 140
