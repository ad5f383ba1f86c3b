"""Quantizing GGUF models: the types that each recipe gives, importance matrices, and the two quantizers beside each
other."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tiny_models import runnable

from edgeinfer import gguf, kernels
from edgeinfer.cli import main
from edgeinfer.converters.quantize.importance import Importance, Statistics, read_importance, write_importance
from edgeinfer.converters.quantize.ours import floats_of, quantize_ours
from edgeinfer.converters.quantize.recipes import parse_override, parse_quant
from edgeinfer.converters.quantize.theirs import quantize_theirs
from edgeinfer.errors import EdgeInferError, FormatError, UsageError

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())


def model(folder: Path, *, default: str = "F32", n_embd: int = 256, n_experts: int = 0) -> Path:
    return runnable(default=default, n_embd=n_embd, n_experts=n_experts).write(folder / "source.gguf")


def values(path: Path, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.concatenate(list(floats_of(gguf.read(path).tensors[name])))


def random_importance(path: Path) -> Importance:
    rng = np.random.default_rng(0)
    entries = {
        name: Statistics(
            rng.gamma(0.3, 1, (tensor.shape[2] if len(tensor.shape) == 3 else 1, tensor.shape[0])).astype(np.float32),
            np.full(tensor.shape[2] if len(tensor.shape) == 3 else 1, 7, np.float32),
        )
        for name, tensor in gguf.read(path).tensors.items()
        if len(tensor.shape) > 1
    }
    return Importance(entries, "some text", 3, 512)


@pytest.mark.parametrize("n_embd", [256, 96])
@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0", "Q5_1", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_the_types_are_llama_cpps(quant: str, n_embd: int, tmp_path: Path) -> None:
    source = model(tmp_path, n_embd=n_embd)
    ours = quantize_ours(source, tmp_path / "ours.gguf", quant)
    theirs = quantize_theirs(source, tmp_path / "theirs.gguf", quant)
    assert ours.types == theirs.types
    assert ours.bits_per_weight == pytest.approx(theirs.bits_per_weight)
    mine, other = gguf.read(ours.written.path), gguf.read(theirs.written.path)
    assert {n: t.type.name for n, t in mine.tensors.items()} == {n: t.type.name for n, t in other.tensors.items()}
    assert mine.metadata.integer("general.file_type") == other.metadata.integer("general.file_type")
    for name, tensor in mine.tensors.items():
        if tensor.type.name == "F32":
            continue
        want = values(source, name)
        errors = [float(np.square(values(path, name) - want).sum()) for path in (mine.path, other.path)]
        assert errors[0] <= errors[1] * 1.0001


def test_importance_lowers_the_error_that_it_weighs(tmp_path: Path) -> None:
    source = model(tmp_path)
    importance = random_importance(source)
    name = "blk.1.ffn_up.weight"
    want, weights = values(source, name), importance.entries[name].means[0]
    errors = []
    for known in (None, importance):
        made = quantize_ours(source, tmp_path / "made.gguf", "Q4_K_M", importance=known, force=True)
        errors.append(float((np.square(values(made.written.path, name) - want) * weights).sum()))
    assert errors[1] < 0.8 * errors[0]
    meta = gguf.read(made.written.path).metadata
    assert meta.text("quantize.imatrix.dataset") == "some text"
    assert meta.integer("quantize.imatrix.entries_count") == len(importance.entries)


def test_experts_have_an_importance_each(tmp_path: Path) -> None:
    source = model(tmp_path, n_experts=4)
    importance = random_importance(source)
    name = "blk.0.ffn_up_exps.weight"
    assert importance.entries[name].means.shape == (4, 256)
    made = quantize_ours(source, tmp_path / "made.gguf", "Q4_K_M", importance=importance)
    want = values(source, name).reshape(4, 512, 256)
    got = values(made.written.path, name).reshape(4, 512, 256)
    for expert in range(4):
        alone = kernels.quantize("Q4_K", want[expert], importance=importance.entries[name].means[expert])
        assert np.array_equal(got[expert], kernels.dequantize("Q4_K", alone))
    theirs = quantize_theirs(source, tmp_path / "theirs.gguf", "Q4_K_M", importance=importance)
    assert theirs.types == made.types


def test_types_that_only_llama_cpp_makes(tmp_path: Path) -> None:
    source = model(tmp_path)
    with pytest.raises(UsageError, match="IQ2_XS needs an importance matrix"):
        quantize_theirs(source, tmp_path / "made.gguf", "IQ2_XS")
    made = quantize_theirs(source, tmp_path / "made.gguf", "IQ2_XS", importance=random_importance(source))
    assert made.types["IQ2_XS"] > 4
    gguf.read(made.written.path)
    assert {path.name for path in tmp_path.iterdir()} == {"source.gguf", "made.gguf"}


def test_what_llama_cpp_says_when_it_fails(tmp_path: Path) -> None:
    source = model(tmp_path)
    wrong = {"blk.0.attn_q.weight": Statistics(np.ones((1, 64), np.float32), np.ones(1, np.float32))}
    with pytest.raises(EdgeInferError, match="imatrix size 64 is different from tensor size 256"):
        quantize_theirs(source, tmp_path / "made.gguf", "Q4_K_M", importance=Importance(wrong))
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


@pytest.mark.parametrize("quantizer", [quantize_ours, quantize_theirs])
def test_tensors_with_a_type_of_their_own(quantizer: object, tmp_path: Path) -> None:
    overrides = [parse_override("attn_v=q8_0"), parse_override("blk.1.*=q5_0"), parse_override("output.weight=q4_0")]
    made = quantizer(model(tmp_path), tmp_path / "made.gguf", "Q6_K", overrides=overrides)  # type: ignore[operator]
    types = {name: tensor.type.name for name, tensor in gguf.read(made.written.path).tensors.items()}
    assert types["blk.0.attn_v.weight"] == types["blk.1.attn_v.weight"] == "Q8_0"
    assert types["blk.1.attn_q.weight"] == types["blk.1.ffn_up.weight"] == "Q5_0"
    assert types["output.weight"] == "Q4_0"
    assert types["blk.0.attn_q.weight"] == "Q6_K"


def test_a_type_that_does_not_fit_a_tensor(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rows of 96, which blocks of 256 do not fit"):
        quantize_ours(
            model(tmp_path, n_embd=96), tmp_path / "x.gguf", "Q8_0", overrides=[parse_override("attn_q=q4_k")]
        )


@pytest.mark.parametrize("text", ["attn_v", "=q8_0", "attn_v=q9", ""])
def test_overrides_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="must be PATTERN=TYPE"):
        parse_override(text)


def test_names_of_types() -> None:
    assert [parse_quant(name) for name in ("q4_k_m", "Q4-K-M", "q4_k", "fp16")] == ["Q4_K_M"] * 3 + ["F16"]
    with pytest.raises(UsageError, match="'q9' is unknown; there are: F32, F16"):
        parse_quant("q9")


def test_what_was_quantized_before_is_said(tmp_path: Path) -> None:
    made = quantize_ours(model(tmp_path, default="Q8_0"), tmp_path / "made.gguf", "Q4_0")
    assert "were quantized before" in made.notes[0]
    with pytest.raises(UsageError, match="is the file to be read"):
        quantize_ours(tmp_path / "made.gguf", tmp_path / "made.gguf", "Q4_0", force=True)


@pytest.mark.parametrize("suffix", [".gguf", ".dat"])
def test_importance_is_read_as_written(suffix: str, tmp_path: Path) -> None:
    written = random_importance(model(tmp_path, n_experts=3))
    path = tmp_path / f"importance{suffix}"
    write_importance(path, written)
    read = read_importance(path)
    assert (read.dataset, read.n_chunks) == ("some text", 3)
    assert read.entries.keys() == written.entries.keys()
    for name, entry in read.entries.items():
        assert np.allclose(entry.means.reshape(-1), written.entries[name].means.reshape(-1), rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "it ends"),
        (struct.pack("<i", -1), "must be from 0"),
        (struct.pack("<ii", 1, 1 << 30), "must be from 0"),
        (struct.pack("<ii4sii", 1, 4, b"name", 1, 1 << 20), "bytes are claimed"),
        (struct.pack("<ii4siif", 1, 4, b"name", 1, 1, float("nan")), "no number"),
        (struct.pack("<ii4siif", 1, 4, b"name", 1, 1, -1.0), "negative"),
        (struct.pack("<ii4sii", 1, 4, b"name", 0, 0), "is empty"),
    ],
)
def test_importance_that_is_none(data: bytes, match: str, tmp_path: Path) -> None:
    path = tmp_path / "importance.dat"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=match):
        read_importance(path)


def test_a_model_is_no_importance(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="holds no importance matrix"):
        read_importance(model(tmp_path))


def test_importance_of_another_model(tmp_path: Path) -> None:
    wrong = {"blk.0.attn_q.weight": Statistics(np.ones((1, 64), np.float32), np.ones(1, np.float32))}
    with pytest.raises(FormatError, match="it was collected on another model"):
        quantize_ours(model(tmp_path), tmp_path / "made.gguf", "Q4_K_M", importance=Importance(wrong))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = model(tmp_path), tmp_path / "made.gguf"
    arguments = ["quantize", str(source), str(out), "--type", "q4_k_m", "--tensor-type", "attn_v=q8_0", "--json"]
    assert main(arguments) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["path"] == str(out)
    assert said["by"] == "edgeinfer"
    assert said["types"]["Q8_0"] == 2
    assert 0.01 < said["relative_error"] < 0.2
    assert main(["models", "verify", str(out)]) == 0
    assert said["sha256"] in capsys.readouterr().out
    assert main(arguments) == 2
    assert "pass --force" in capsys.readouterr().err
    assert main([*arguments, "--force", "--with", "llama.cpp"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["by"] == "llama.cpp"
    assert main(["quantize", str(source), str(out), "--type", "q2_k", "--with", "edgeinfer"]) == 2
