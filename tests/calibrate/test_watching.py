"""A package that reads a text while its values are watched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx_packages import export
from small_models import small_model, written

from edgeinfer.calibrate import Sample, Watcher
from edgeinfer.engines import EngineConfig
from edgeinfer.engines.base import Slice
from edgeinfer.engines.ort_open import open_onnx
from edgeinfer.errors import UnsupportedModel, UsageError
from edgeinfer.text import Tokenizer
from edgeinfer.verify.forced import windows

TEXT = "Of all the things that words can do, the best is to be read aloud by 2 or 3 people. " * 12
NAMES = ("blk.0.attn_norm", "present.1.key", "logits")

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("watched")
    export(written(small_model(), place), place / "out", variant=("npu", "cpu"), n_ctx=256)
    return place / "out"


def test_values_are_those_of_the_text(folder: Path) -> None:
    """All windows, in order, from an empty context each; what no pass is full of is left out."""
    heard: dict[str, list[Floats]] = {name: [] for name in NAMES}
    told: list[tuple[int, int]] = []
    with Watcher(folder, Sample.of(TEXT, "words", 600), NAMES, lambda *at: told.append(at)) as watcher:
        watcher.read(lambda name, values: heard[name].append(values.copy()))
        again: list[Floats] = []
        watcher.read(lambda name, values: again.append(values.copy()) if name == "logits" else None)
        calibration = watcher.calibration
    assert (calibration.text, calibration.tokens, calibration.windows) == ("words", 576, 3)
    assert told[8] == (576, 576)
    assert [values.shape for values in heard["present.1.key"]] == [(1, 2, 64, 64)] * 9
    with Tokenizer.from_gguf(folder / "vocab.gguf") as tokenizer:
        ids, bos_id = tokenizer.encode(TEXT), tokenizer.bos_id if tokenizer.adds_bos else None
    engine = open_onnx(folder, EngineConfig(n_ctx=256, n_threads=1, kernels=False))
    (window,) = windows(ids, 256, 256, bos_id)
    wanted = engine.forward([Slice(0, window.inputs, 0, 256)]).copy()
    engine.close()
    found = np.concatenate([values[0] for values in heard["logits"][:4]])
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.9
    assert all(np.array_equal(a, b) for a, b in zip(heard["logits"], again, strict=True))


def test_what_says_too_little(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="words has 75 tokens, too few to find ranges with: give a text of 256"):
        Watcher(folder, Sample.of(TEXT[:50], "words"), NAMES)
    with pytest.raises(UnsupportedModel, match="has no tensor 'nothing'"):
        Watcher(folder, Sample.of(TEXT, "words"), ["nothing"])
    model = written(small_model(), tmp_path)
    export(model, tmp_path / "out")
    with pytest.raises(UnsupportedModel, match="has no variant npu"):
        Watcher(tmp_path / "out", Sample.of(TEXT, "words"), NAMES)
