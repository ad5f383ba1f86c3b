"""What the products of a package are fed while it reads: held against the graphs of fixed shapes, and against what is
computed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from checkpoint_cases import CASES
from onnx_packages import export
from small_models import small_model, written
from tiny_checkpoints import checkpoint, torch_and_transformers, wordpiece_json

from edgeinfer.calibrate import Hessians, PackageReader, Sample, Watcher
from edgeinfer.converters.to_onnx.opening import opened
from edgeinfer.converters.to_onnx.requantize import values
from edgeinfer.errors import FormatError, UnsupportedModel
from edgeinfer.onnx import package
from edgeinfer.text import Tokenizer

TEXT = "Of all the things that words can do, the best is to be read aloud by 2 or 3 people. " * 12
SAMPLE = Sample.of(TEXT, "words", 256)

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("read")
    model = written(small_model(request.param, default="F32"), place)
    export(model, place / "out", variant=("npu", "cpu"), n_ctx=256)
    return place / "out"


def test_products_are_those_of_the_values(folder: Path) -> None:
    """Of the first product, of those after attention and gates, and of the head."""
    fed = {
        "blk.0.attn_q.weight": "blk.0.attn_norm",
        "blk.1.attn_output.weight": "blk.1.attention",
        "blk.1.ffn_up.weight": "blk.1.ffn_norm",
        "blk.1.ffn_down.weight": "blk.1.ffn_gated",
        "output.weight": "output_norm",
    }
    reader = PackageReader(folder, SAMPLE)
    found = reader.products([*fed, "blk.0.attn_norm.weight", "no such"])
    assert found.keys() == fed.keys()
    heard: dict[str, Floats] = {}
    with Watcher(folder, SAMPLE, [*fed.values()]) as watcher:
        assert watcher.n_tokens == reader.n_tokens == 256

        def hear(name: str, rows: Floats) -> None:
            rows = rows.reshape(64, -1)
            heard[name] = heard.get(name, np.float32(0)) + rows.T @ rows

        watcher.read(hear)
    for name, value in fed.items():
        assert found[name].n_rows == 256
        np.testing.assert_allclose(found[name].sums, heard[value], atol=1e-4 * float(np.abs(heard[value]).max()))


def test_the_first_is_what_the_table_and_the_norm_make(folder: Path) -> None:
    reader = PackageReader(folder, SAMPLE)
    found = reader.products(["blk.0.attn_k.weight"])["blk.0.attn_k.weight"].sums
    with opened(folder) as model:
        tensors = model.source.tensors
        names = ("token_embd.weight", "blk.0.attn_norm.weight")
        table, norm = (values("F32", model.source.rows(each, 0, tensors[each].n_rows)) for each in names)
    with Tokenizer.from_gguf(folder / "vocab.gguf") as tokenizer:
        ids = tokenizer.encode(TEXT)
        ids = np.concatenate([[tokenizer.bos_id], ids])[:256] if tokenizer.adds_bos else ids[:256]
    sizes = package.read(folder).hyperparameters
    rows = table[ids] * np.float32(sizes.embedding_scale)
    rows = rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + sizes.norm_eps) * norm
    np.testing.assert_allclose(found, rows.T @ rows, rtol=0, atol=1e-4 * float(np.abs(found).max()))


def test_layers_share_what_they_are_fed(folder: Path) -> None:
    """And the text is read as often as the memory makes it."""
    inputs = Hessians(PackageReader(folder, SAMPLE), 1 << 30)
    assert inputs.of("blk.0.attn_q.weight") is inputs.of("blk.0.attn_v.weight")
    assert inputs.of("output.weight") is not None
    assert inputs.of("token_embd.weight") is None
    assert inputs.n_readings == 1
    less = Hessians(PackageReader(folder, SAMPLE), 1 << 10)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_down.weight"):
        assert less.of(name) is not None
    assert less.n_readings == 2


def test_experts_are_left_out(tmp_path: Path) -> None:
    torch_and_transformers()
    made, _ = checkpoint(tmp_path / "model", *CASES["mixtral"])
    export(made, tmp_path / "out", quant="f16")
    inputs = Hessians(PackageReader(tmp_path / "out", SAMPLE), 1 << 30)
    assert inputs.of("blk.0.attn_q.weight") is not None
    assert inputs.of("blk.0.ffn_down_exps.weight") is None


def test_who_cannot_read(tmp_path: Path) -> None:
    torch_and_transformers()
    config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"vocab_size": 180, "max_position_embeddings": 128, "pad_token_id": 0}
    encoder, _ = checkpoint(tmp_path / "bert", "Bert", config, tokenizer=wordpiece_json, add_pooling_layer=False)
    export(encoder, tmp_path / "encoder")
    with pytest.raises(UnsupportedModel, match="is an encoder; calibration reads a text from left to right"):
        PackageReader(tmp_path / "encoder", SAMPLE)
    export(written(small_model(), tmp_path), tmp_path / "npu", variant=("npu",), n_ctx=64)
    with pytest.raises(UnsupportedModel, match="has no graph for any number of tokens"):
        PackageReader(tmp_path / "npu", SAMPLE)


def test_tokens_beyond_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime reads past the end of a table of blocks, and says nothing."""
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: np.array([5, 300, 7], np.int32))
    with pytest.raises(FormatError, match=r"vocab\.gguf has tokens that .* has no embeddings of"):
        PackageReader(folder, SAMPLE)
