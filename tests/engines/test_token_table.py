"""Tokens read through a table of embeddings are the tokens that llama.cpp reads itself, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf_files import STRING
from small_models import ARCHITECTURES, small_model, written

from edgeinfer import gguf, kernels
from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine
from edgeinfer.engines.token_table import TokenTable
from edgeinfer.errors import EngineError, FormatError, UnsupportedModel, UnsupportedQuant

pytestmark = pytest.mark.skipif(not kernels.available(), reason="tables are decoded by our library")

CONFIG = EngineConfig(n_ctx=256, n_seq_max=2, n_threads=2)
IDS = np.random.default_rng(3).integers(0, 300, 90).astype(np.int32)


@contextmanager
def opened(path: Path, config: EngineConfig = CONFIG, table: TokenTable | None = None) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(path, config, table=table)
    try:
        yield engine
    finally:
        engine.close()


def logits(engine: LlamaCppEngine) -> npt.NDArray[np.float32]:
    """A prompt, two sequences in one pass, single tokens."""
    steps = [
        [Slice(0, IDS[:70], 0, 3)],
        [Slice(0, IDS[70:72], 70, 2), Slice(1, IDS[:9], 0, 1)],
        [Slice(0, IDS[72:73], 72, 1)],
        [Slice(1, IDS[9:10], 9, 1)],
    ]
    return np.concatenate([engine.forward(slices).copy() for slices in steps])


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_table_changes_nothing(tmp_path: Path, architecture: str, ours: bool) -> None:
    path, config = written(small_model(architecture), tmp_path), replace(CONFIG, kernels=ours)
    with opened(path, config) as engine:
        wanted = logits(engine)
    with opened(path, config, TokenTable(gguf.read(path))) as engine:
        assert (engine.n_vocab, engine.n_vocab_in) == (300, 300)
        assert np.array_equal(logits(engine), wanted)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q5_0", "Q6_K"])
def test_every_type_of_table(tmp_path: Path, name: str) -> None:
    made = small_model(default=name, tied=True)
    path = written(made, tmp_path)
    with opened(path) as engine:
        wanted = logits(engine)
    with opened(path, table=TokenTable(gguf.read(path))) as engine:
        assert np.array_equal(logits(engine), wanted)


def test_ids_are_those_of_the_table(tmp_path: Path) -> None:
    path = written(small_model(), tmp_path)
    table = TokenTable(gguf.read(path))
    table.n_vocab = 40
    with opened(path, table=table) as engine:
        assert (engine.n_vocab, engine.n_vocab_in) == (300, 40)
        for ids in ([40], [0, 40, 1], [-1]):
            with pytest.raises(EngineError, match="outside the vocabulary of 40"):
                engine.forward([Slice(0, np.array(ids, np.int32), 0)])
        assert engine.forward([Slice(0, np.array([39], np.int32), 0)]).shape == (1, 300)


def test_a_table_of_another_width_is_refused(tmp_path: Path) -> None:
    path = written(small_model(), tmp_path)
    table = TokenTable(gguf.read(path))
    table.n_embd = 512
    with pytest.raises(FormatError, match=r"tiny\.gguf: rows of 512 .* a model of 256"):
        LlamaCppEngine(path, CONFIG, table=table)


def test_tables_that_cannot_be(tmp_path: Path) -> None:
    made = small_model()
    made.keys["general.architecture"] = (STRING, "gemma2")
    made.keys = {key.replace("llama.", "gemma2.", 1): stored for key, stored in made.keys.items()}
    with pytest.raises(UnsupportedModel, match="architecture gemma2, not one of llama"):
        TokenTable(gguf.read(written(made, tmp_path)))
    with pytest.raises(UnsupportedQuant, match=r"token_embd\.weight is of type Q2_K"):
        TokenTable(gguf.read(written(small_model(default="Q2_K"), tmp_path)))
    made = small_model()
    made.tensors = made.tensors[1:]
    with pytest.raises(UnsupportedModel, match=r"no token_embd\.weight"):
        TokenTable(gguf.read(written(made, tmp_path)))
