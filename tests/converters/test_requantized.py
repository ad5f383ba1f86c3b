"""A package in other forms: what comes of one with floats is, bit for bit, what comes of its source."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from checkpoint_cases import BASE, CASES, LONG
from onnx.numpy_helper import to_array
from onnx_packages import damaged, export, options, rewritten
from onnx_runs import Dynamic, divergence
from small_models import Heard, small_model, written
from tiny_checkpoints import byte_level_json, checkpoint, token_ids, torch_and_transformers, wordpiece_json

from edgeinfer import gguf
from edgeinfer.calibrate import Hessians, PackageReader, Sample, Watcher
from edgeinfer.converters.sources import GGUFSource, TensorSource
from edgeinfer.converters.to_onnx.activations import Activations
from edgeinfer.converters.to_onnx.calibrated import export_calibrated
from edgeinfer.converters.to_onnx.forms import Parts, decoded, joined
from edgeinfer.converters.to_onnx.mixture import FormOverride
from edgeinfer.converters.to_onnx.opening import opened
from edgeinfer.converters.to_onnx.options import VARIANTS
from edgeinfer.converters.to_onnx.requantize import Quant, values
from edgeinfer.converters.to_onnx.requantized import quantize_package
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.converters.to_onnx.table import stored_table
from edgeinfer.errors import EdgeInferError, FormatError, UnsupportedModel, UsageError
from edgeinfer.onnx import package

torch_and_transformers()

Floats = npt.NDArray[np.float32]
SMALL: dict[str, Any] = {**BASE, "num_hidden_layers": 2}
BERT: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 180,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", BERT),
    "bert-one-type": ("Bert", {**BERT, "type_vocab_size": 1}),
    "roberta": ("Roberta", {**BERT, "pad_token_id": 1}),
    "nomic-bert": ("NomicBert", BERT),
}


def model_of(case: str, folder: Path) -> Path:
    name, config = {**CASES, **ENCODERS}[case]
    more = {"add_pooling_layer": False} if case in ENCODERS and name != "NomicBert" else {}
    tokenizer = wordpiece_json if case in ENCODERS else byte_level_json
    return checkpoint(folder, name, config, tokenizer=tokenizer, **more)[0]


def quantized(folder: Path, out: Path, quant: Quant, *overrides: str, **more: Any) -> package.Package:
    asked = [FormOverride(*each.split("=")) for each in overrides]  # type: ignore[arg-type]
    progress, reader = more.pop("progress", None), more.pop("reader", None)
    return quantize_package(folder, out, options(quant=quant, overrides=asked, **more), progress, reader)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the manifest."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != package.MANIFEST}


def weights(folder: Path) -> dict[str, Floats]:
    """All tensors of a package or a model, in the order of their source."""
    with opened(folder) as model:
        return {name: tensor_of(model.source, name) for name in model.source.tensors}


def tensor_of(source: TensorSource, name: str) -> Floats:
    tensor = source.tensors[name]
    n_rows = tensor.n_rows
    return values(tensor.type, source.rows(name, 0, n_rows)).reshape(tensor.shape)


@pytest.mark.parametrize("case", [*CASES, *ENCODERS])
def test_a_package_of_floats_is_as_good_as_its_source(case: str, tmp_path: Path) -> None:
    """Rows of heads, experts, matrices that were parts of others, factors of ropes: all are found again."""
    folder = model_of(case, tmp_path / "model")
    whole = export(folder, tmp_path / "f32", quant="f32", name="m")
    several = case in ("llama", "mixtral", "phi3-long", "bert")
    for quant in ("int8", "int4") if several else ("bf16",) if case == "llama-odd" else ("int8",):
        wanted = export(folder, tmp_path / quant, quant=quant, name="m")
        made = quantized(tmp_path / "f32", tmp_path / f"again-{quant}", quant)
        assert contents(tmp_path / f"again-{quant}") == contents(tmp_path / quant)
        assert (made.tensors, made.measured) == (wanted.tensors, wanted.measured)
        assert (made.name, made.mode, made.hyperparameters) == ("m", quant, wanted.hyperparameters)
        assert made.origin == package.Origin(whole.source_file, whole.source_sha256)
        assert package.read(tmp_path / f"again-{quant}") == made
        made.check_hashes()


@pytest.mark.parametrize(("first", "quant"), [("f32", "int8"), ("f32", "f16"), ("keep", "bf16"), ("f16", "f32")])
def test_all_variants_come_along(first: Quant, quant: Quant, tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path / "model", "Qwen3", {**SMALL, "head_dim": 32})
    export(folder, tmp_path / "first", quant=first, variant=VARIANTS, n_ctx=64)
    made = quantized(tmp_path / "first", tmp_path / "out", quant)
    assert {*made.variants} == {*VARIANTS}
    assert made.variants["npu"].n_ctx == 64
    if first != "f16":  # what halves have lost is lost
        export(folder, tmp_path / "wanted", quant=quant, variant=VARIANTS, n_ctx=64)
        assert contents(tmp_path / "out") == contents(tmp_path / "wanted")


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q5_1", "Q8_0", "Q4_K", "Q6_K", "IQ4_NL", "BF16"])
def test_blocks_are_read_as_they_are_computed(type_name: str, tmp_path: Path) -> None:
    """With their offsets, which alone were rounded; by rows or by columns."""
    model = written(small_model("llama", default=type_name), tmp_path)
    exact = weights(model)
    for variants in (("cpu",), ("npu",)):
        made = export(model, tmp_path / variants[0], variant=variants, n_ctx=64)
        quantized(tmp_path / variants[0], tmp_path / f"{variants[0]}-f32", "f32")
        for folder in (tmp_path / variants[0], tmp_path / f"{variants[0]}-f32"):
            found = weights(folder)
            assert found.keys() == exact.keys()
            for name, want in exact.items():
                off = float(np.abs(found[name] - want).max())
                assert off <= made.measured["max_error"] * 1.001 + 1e-6 * float(np.abs(want).max()), name
        assert made.measured["max_error"] > 0 if type_name == "Q4_K" else made.measured["max_error"] < 1e-3


def test_columns_are_rows_otherwise(tmp_path: Path) -> None:
    """Also where two rows cannot share a byte."""
    config = {**SMALL, "vocab_size": 321}
    folder, _ = checkpoint(tmp_path / "model", "Qwen2", config)
    odd = FormOverride("output", "int4")
    for name, variants in (("both", ("cpu", "npu")), ("npu", ("npu",))):
        export(folder, tmp_path / name, quant="int4", overrides=[odd], variant=variants, n_ctx=64)
        quantized(tmp_path / name, tmp_path / f"{name}-bf16", "bf16")
    both, alone = (contents(tmp_path / f"{name}-bf16") for name in ("both", "npu"))
    assert {name: both[name] for name in both if name.startswith("npu/")} == {
        name: alone[name] for name in alone if name.startswith("npu/")
    }


def experts_of(folder: Path) -> Floats:
    """Gate and up of the first layer's experts as their operator takes them."""
    model = onnx.load(folder / "model.onnx")
    stored = {tensor.name: to_array(tensor) for tensor in model.graph.initializer if "exps" in tensor.name}
    name = "blk.0.ffn_gate_up_exps.weight"
    if name in stored:
        return np.asarray(stored[name], np.float32)
    q, scales = stored[f"{name}.q"], stored[f"{name}.scales"]
    if q.shape[2] * 2 == scales.shape[2] * 32:
        q, middle = np.stack([q & 15, q >> 4], axis=-1).reshape(*q.shape[:2], -1), 8
    else:
        middle = 128
    found: Floats = (q.astype(np.float32) - np.float32(middle)) * np.repeat(scales, 32, axis=2)
    return found


@pytest.mark.parametrize("quant", ["int4", "int8"])
def test_experts_come_apart(quant: Quant, tmp_path: Path) -> None:
    folder = model_of("mixtral", tmp_path / "model")
    export(folder, tmp_path / "blocks", quant=quant)
    quantized(tmp_path / "blocks", tmp_path / "floats", "f32")
    blocks, floats = experts_of(tmp_path / "blocks"), experts_of(tmp_path / "floats")
    assert blocks.shape == (4, 320, 96)
    assert np.array_equal(blocks, floats)


def test_what_was_rounded_before_is_said(tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path / "model", "Llama", SMALL)
    first = export(folder, tmp_path / "int8", quant="int8")
    heard = Heard()
    made = quantized(tmp_path / "int8", tmp_path / "int4", "int4", progress=heard)
    said = [note for note in heard.notes if "errors add up" in note]
    assert len(said) == 1
    assert "is int8 already, which cost 0." in said[0]
    assert "start from model" in said[0]
    assert heard.updates[-1][0] == heard.updates[-1][1]
    assert made.measured["source_relative_error"] == first.measured["relative_error"]
    third = quantized(tmp_path / "int4", tmp_path / "third", "bf16")
    assert (third.source_file, third.origin) == ("int4", package.Origin("model", first.source_sha256))
    heard = Heard()
    export(folder, tmp_path / "f16", quant="f16")
    quantized(tmp_path / "f16", tmp_path / "fourth", "int8", progress=heard)
    assert not [note for note in heard.notes if "add up" in note]


def test_kept_blocks_stay_to_the_last_bit(tmp_path: Path) -> None:
    """Where an override keeps them; their offsets and their types too."""
    model = written(small_model("llama", default="Q4_K"), tmp_path)
    first = export(model, tmp_path / "keep", block=64)
    made = quantized(tmp_path / "keep", tmp_path / "out", "int4", "attn=keep", "blk.0.*=bf16", "output=f16", block=64)
    name = "blk.1.attn_q.weight"
    assert made.tensors[name] == first.tensors[name] == package.TensorForm("Q4_K", "nbits4", 32, True)
    assert made.tensors["blk.1.ffn_up.weight"] == package.TensorForm("Q4_K", "nbits4", 64)
    assert made.tensors["blk.0.ffn_up.weight"] == package.TensorForm("BF16", "float", 0)
    assert made.tensors["output.weight"] == package.TensorForm("F16", "float", 0)
    assert made.tensors["token_embd.weight"].form == "nbits8"
    graphs = [onnx.load(tmp_path / folder / "model.onnx").graph for folder in ("keep", "out")]
    old, new = ({each.name: to_array(each).tobytes() for each in graph.initializer} for graph in graphs)
    parts = [part for part in old if part.startswith(name)]
    assert len(parts) == 4
    assert all(old[part] == new[part] for part in parts)
    ids = token_ids()
    assert divergence(Dynamic(tmp_path / "keep")(ids), Dynamic(tmp_path / "out")(ids)).mean() < 0.2


def test_overrides_of_a_conversion(tmp_path: Path) -> None:
    """The first that matches counts; tables and routers get few bits where they are named."""
    folder = model_of("qwen3moe", tmp_path / "model")
    asked = [FormOverride("blk.0.*", "keep"), FormOverride("attn_v", "int8"), FormOverride("token_embd", "int4")]
    asked += [FormOverride("ffn_gate_inp", "int8"), FormOverride("attn_k.weight", "f16")]
    made = export(folder, tmp_path / "out", quant="int4", overrides=asked)
    forms = {name: form.form for name, form in made.tensors.items()}
    assert forms["blk.0.attn_v.weight"] == "float"
    assert forms["blk.1.attn_v.weight"] == forms["blk.1.ffn_gate_inp.weight"] == "nbits8"
    assert forms["blk.1.attn_q.weight"] == forms["token_embd.weight"] == forms["blk.1.ffn_up_exps.weight"] == "nbits4"
    assert made.tensors["blk.1.attn_k.weight"].type == "F16"
    assert made.measured["float_relative_error"] < 1e-3 < made.measured["relative_error"]
    exact = export(folder, tmp_path / "f32", quant="f32")
    ids = token_ids()
    found = divergence(Dynamic(tmp_path / "f32")(ids), Dynamic(tmp_path / "out")(ids))
    assert exact.hyperparameters == made.hyperparameters
    assert 0 < float(np.median(found)) < 0.5


def test_longer_blocks_and_better_scales(tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path / "model", "Llama", SMALL | {"hidden_size": 192})
    export(folder, tmp_path / "f32", quant="f32")
    errors = {}
    for method in ("rtn", "search"):
        rounding: Any = Rounding(method)
        made = quantized(tmp_path / "f32", tmp_path / method, "int4", block=64, rounding=rounding)
        errors[method] = made.measured["relative_error"]
        assert made.tensors["blk.0.attn_q.weight"].block == 64
        assert made.tensors["blk.0.ffn_down.weight"].block == 32  # rows of 160
    assert errors["search"] < errors["rtn"]


def test_the_inputs_alone_may_change(tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path / "model", "Llama", SMALL)
    export(folder, tmp_path / "int8", quant="int8")
    made = quantized(tmp_path / "int8", tmp_path / "out", "int8-dynamic")
    assert made.mode == "int8-dynamic"
    assert contents(tmp_path / "out") == contents(tmp_path / "int8")


# ---- what learns from a text

TEXT = "Of all the things that words can do, the best is to be read aloud by 2 or 3 people. " * 12
OTHER = "It was 7 in the morning, and nobody had thought of asking who would bring the bread. " * 12


def watching(folder: Path, names: Sequence[str]) -> Watcher:
    return Watcher(folder, Sample.of(TEXT, "words", 256), names)


def lost(folder: Path, exact: dict[str, Floats], inputs: PackageReader) -> float:
    """What products lose of what they would be, squared, over all matrices."""
    found = weights(folder)
    fed = {name: each.sums for name, each in inputs.products([*exact]).items()}
    error, power = (
        sum(float(((of[name]) @ fed[name] * of[name]).sum()) for name in fed)
        for of in ({name: found[name] - exact[name] for name in exact}, exact)
    )
    return error / power


@pytest.mark.parametrize("variants", [("cpu",), ("cpu", "npu")])
def test_feedback_loses_less(variants: tuple[Any, ...], tmp_path: Path) -> None:
    """On another text than the one that it learned from."""
    model = written(small_model("llama", default="F32"), tmp_path)
    export(model, tmp_path / "f32", quant="f32", variant=variants, n_ctx=64)
    inputs = Hessians(PackageReader(tmp_path / "f32", Sample.of(TEXT, "words", 512)), 1 << 30)
    made = quantized(tmp_path / "f32", tmp_path / "gptq", "int4", rounding=Rounding("gptq", inputs))
    quantized(tmp_path / "f32", tmp_path / "rtn", "int4")
    assert {*made.variants} == {*variants}
    assert made.tensors["blk.0.ffn_up.weight"] == package.TensorForm("F32", "nbits4", 32)
    exact, other = weights(model), PackageReader(tmp_path / "f32", Sample.of(OTHER, "other", 512))
    assert lost(tmp_path / "gptq", exact, other) < 0.7 * lost(tmp_path / "rtn", exact, other)


@pytest.mark.parametrize(("quant", "bits"), [("int8-static", 16), ("int8-static", 8), ("int4-static", 8)])
def test_ranges_are_those_that_the_source_gets(quant: Quant, bits: Any, tmp_path: Path) -> None:
    """Graphs, weights and tables are the same bytes, whatever variant they come from."""
    model = written(small_model("gemma3", default="F32"), tmp_path)
    asked: dict[str, Any] = {"quant": quant, "variant": ("npu",), "n_ctx": 192}
    wanted = export_calibrated(model, tmp_path / "wanted", watching, options(activations=Activations(bits), **asked))
    for name, variants in (("cpu", ("cpu", "cuda")), ("npu", ("npu",))):
        export(model, tmp_path / name, variant=variants, n_ctx=192)
        heard = Heard()
        more: dict[str, Any] = {"activations": Activations(bits), "reader": watching, "progress": heard}
        more |= {"n_ctx": 192} if name == "cpu" else {}
        made = quantized(tmp_path / name, tmp_path / f"{name}-out", quant, **more)
        assert contents(tmp_path / f"{name}-out") == contents(tmp_path / "wanted")
        assert (made.tensors, made.measured, made.calibration) == (wanted.tensors, wanted.measured, wanted.calibration)
        assert [*made.variants] == ["npu"]
        left = [note for note in heard.notes if "nothing is made" in note]
        assert left == ([f"{quant} is for NPUs: of variant cpu and cuda nothing is made"] if name == "cpu" else [])
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []


@pytest.mark.parametrize("type_name", ["Q8_0", "Q6_K", "Q4_K"])
def test_a_table_of_blocks(type_name: str, tmp_path: Path) -> None:
    """Is exact where GGUF has such blocks, and nearly so where it has not."""
    model = written(small_model("llama", default=type_name), tmp_path)
    export(model, tmp_path / "cpu")
    quantized(
        tmp_path / "cpu", tmp_path / "out", "int8-static", reader=watching, activations=Activations(16), n_ctx=192
    )
    name = "token_embd.weight"
    wanted = weights(tmp_path / "cpu")[name]
    file = gguf.read_structure(tmp_path / "out" / "npu" / "token_embd.gguf")
    with GGUFSource(file) as source:
        found = tensor_of(source, name)
    assert file.tensors[name].type.name == ("Q8_0" if type_name == "Q8_0" else "F16")
    np.testing.assert_allclose(found, wanted, rtol=0 if type_name == "Q8_0" else 1e-3, atol=1e-6)


def test_a_table_of_great_scales(tmp_path: Path) -> None:
    """Which halves cannot hold; those of 8 bits are no halves then either."""
    model = written(small_model("llama", default="Q8_0"), tmp_path)
    export(model, tmp_path / "cpu")
    table = stored_table(Scaled(tmp_path / "cpu", 3e6))
    assert table[1].name == "F32"
    assert np.isfinite(table[2](0, 300).view("<f4")).all()


class Scaled:
    """A package's tensors, with other scales."""

    def __init__(self, folder: Path, by: float) -> None:
        self.label, self._by = "scaled", np.float32(by)
        with opened(folder) as model:
            self.tensors = dict(model.source.tensors)
            self._rows = model.source.rows("token_embd.weight", 0, 300)

    def rows(self, name: str, first: int, n_rows: int) -> npt.NDArray[np.uint8]:
        parts = decoded(self.tensors[name].type, self._rows[first : first + n_rows])
        return joined(Parts(parts.q, parts.scales * self._by))


def test_no_integers_for_every_model(tmp_path: Path) -> None:
    for case, why in (("mixtral", "its experts are chosen as it runs"), ("bert", "it is an encoder")):
        export(model_of(case, tmp_path / case), tmp_path / f"{case}-f16", quant="f16")
        with pytest.raises(UnsupportedModel, match=f"variant npu has graphs of fixed shapes, and {why}"):
            quantized(
                *(tmp_path / f"{case}-f16", tmp_path / "out", "int8-static"),
                reader=watching,
                activations=Activations(16),
            )
    with pytest.raises(UsageError, match="finds the ranges of what products take on a text; give one"):
        quantized(tmp_path / "bert-f16", tmp_path / "out", "int8-static", activations=Activations(16))
    with pytest.raises(UsageError, match="has no variant npu, whose graphs alone have a context"):
        quantized(tmp_path / "bert-f16", tmp_path / "out", "int8", n_ctx=64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "bert-f16", "mixtral", "mixtral-f16"]


# ---- what is refused


@pytest.mark.parametrize(("first", "quant"), [("int8", "int8"), ("int4", "int4"), ("int4", "int8"), ("f32", "f32")])
def test_the_same_again(first: Quant, quant: Quant, tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path / "model", "Llama", SMALL)
    export(folder, tmp_path / "first", quant=first, variant=("cpu", "npu"), n_ctx=64)
    with pytest.raises(UsageError, match=rf"first is {first}, and every matrix has the form already"):
        quantized(tmp_path / "first", tmp_path / "out", quant)
    with pytest.raises(UsageError, match="is the package to be read"):
        quantized(tmp_path / "first", tmp_path / "first", "bf16", force=True)
    export(folder, tmp_path / "out", quant="bf16")
    with pytest.raises(UsageError, match="--force"):
        quantized(tmp_path / "first", tmp_path / "out", "f16")
    assert quantized(tmp_path / "first", tmp_path / "out", "f16", force=True).mode == "f16"


@pytest.mark.parametrize(
    ("case", "override", "message"),
    [
        ("llama", "attn_w=int8", "attn_w=int8 matches no matrix"),
        ("llama", "attn_norm=int8", "matches no matrix"),
        ("bert", "position_embd=int8", "matches no matrix"),
        ("llama-odd", "ffn_down=int8", r"ffn_down\.weight has rows of 77"),
        ("mixtral", "ffn_down_exps=f16", r"experts are all floats or all blocks; give the three of blk\.\d one type"),
    ],
)
def test_overrides_that_cannot_be(case: str, override: str, message: str, tmp_path: Path) -> None:
    folder = model_of(case, tmp_path / "model")
    with pytest.raises(UsageError, match=message):
        export(folder, tmp_path / "out", quant="int8", overrides=[FormOverride(*override.split("="))])  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def truncated(folder: Path) -> None:
    data = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(data[:-100])


def flipped(folder: Path) -> None:
    data = bytearray((folder / "model.onnx.data").read_bytes())
    data[1000] ^= 1
    (folder / "model.onnx.data").write_bytes(data)


def elsewhere(folder: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        found = next(tensor for tensor in proto.graph.initializer if tensor.data_location)
        found.external_data[0].value = "../secret"

    rewritten(folder, change)


def without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        damaged(folder, lambda manifest: manifest["quantization"]["tensors"].pop(name))

    return change


def with_form(**form: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        def other(manifest: dict[str, Any]) -> None:
            manifest["quantization"]["tensors"]["blk.0.attn_q.weight"] |= form

        damaged(folder, other)

    return change


def with_size(**sizes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        damaged(folder, lambda manifest: manifest["hyperparameters"].update(sizes))

    return change


WRONG: list[tuple[Callable[[Path], None], type[EdgeInferError], str]] = [
    (truncated, FormatError, r"model\.onnx\.data has \d+ bytes, but"),
    (flipped, FormatError, r"model\.onnx\.data is damaged"),
    (elsewhere, FormatError, "which is no file of this package's variant"),
    (without("blk.1.ffn_up.weight"), FormatError, r"missing: 'blk\.1\.ffn_up\.weight'"),
    (with_form(form="float"), FormatError, r"weight 'blk\.0\.attn_q\.weight' is missing from its graph"),
    (with_form(block=256), FormatError, "blocks of 256"),
    (with_form(block=64), FormatError, r"attn_q\.weight\.q' is of shape"),
    (with_form(form="nbits4"), FormatError, r"attn_q\.weight\.q' is of shape"),
    (with_form(correction=True), FormatError, r"attn_q\.weight\.correction\.q' is missing"),
    (with_size(attention_scale=0.5), FormatError, r"attention_scale are not what vocab\.gguf says"),
    (with_size(tied_embeddings=True), FormatError, "tied_embeddings"),
    (with_size(rope_frequencies=[1.0, 0.5]), FormatError, "rope_frequencies"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_packages_that_are_not_what_they_say(
    change: Callable[[Path], None], error: type[EdgeInferError], message: str, tmp_path: Path
) -> None:
    folder, _ = checkpoint(tmp_path / "model", "Llama", SMALL)
    export(folder, tmp_path / "int8", quant="int8")
    change(tmp_path / "int8")
    with pytest.raises(error, match=message):
        quantized(tmp_path / "int8", tmp_path / "out", "int4")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_scales_that_are_no_numbers(tmp_path: Path) -> None:
    """With hashes that vouch for them: found while writing, of which nothing is left."""
    folder, _ = checkpoint(tmp_path / "model", "Llama", SMALL)
    export(folder, tmp_path / "int8", quant="int8")
    graph = onnx.load(tmp_path / "int8" / "model.onnx", load_external_data=False).graph
    scales = next(tensor for tensor in graph.initializer if tensor.name == "blk.1.ffn_down.weight.scales")
    offset = int({entry.key: entry.value for entry in scales.external_data}["offset"])
    with (tmp_path / "int8" / "model.onnx.data").open("rb+") as stream:
        stream.seek(offset)
        stream.write(np.float32(np.nan).tobytes())
    made = package.read(tmp_path / "int8")
    from edgeinfer.converters.to_onnx.graph_files import described

    fresh = described(made.folder, ["model.onnx.data"])["model.onnx.data"]
    damaged(
        tmp_path / "int8",
        lambda manifest: manifest["variants"]["cpu"]["files"]["model.onnx.data"].update(sha256=fresh.sha256),
    )
    with pytest.raises(FormatError, match=r"blk\.1\.ffn_down\.weight\.scales' has values that are no numbers"):
        quantized(tmp_path / "int8", tmp_path / "out", "int4")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_factors_that_no_rope_has(tmp_path: Path) -> None:
    folder, _ = checkpoint(
        tmp_path / "model", "Phi3", {**SMALL, "rope_parameters": LONG, "original_max_position_embeddings": 32}
    )
    export(folder, tmp_path / "f32", quant="f32")
    damaged(tmp_path / "f32", lambda manifest: manifest["hyperparameters"].update(rope_frequencies_long=[0.0] * 8))
    with pytest.raises(FormatError, match="rope_frequencies are not those of its model"):
        quantized(tmp_path / "f32", tmp_path / "out", "int8")


def test_another_models_vocabulary(tmp_path: Path) -> None:
    first, _ = checkpoint(tmp_path / "first", "Llama", SMALL)
    second, _ = checkpoint(tmp_path / "second", "Qwen2", SMALL)
    for folder in (first, second):
        export(folder, tmp_path / f"{folder.name}-f32", quant="f32")
    vocab = tmp_path / "second-f32" / package.VOCABULARY
    (tmp_path / "first-f32" / package.VOCABULARY).write_bytes(vocab.read_bytes())
    described = json.loads((tmp_path / "second-f32" / package.MANIFEST).read_text())["files"][package.VOCABULARY]
    damaged(tmp_path / "first-f32", lambda manifest: manifest["files"].update({package.VOCABULARY: described}))
    with pytest.raises(FormatError, match=r"tensors of a qwen2 model; missing: 'blk\.0\.attn_k\.bias'"):
        quantized(tmp_path / "first-f32", tmp_path / "out", "int8")


def test_no_architecture_that_we_do_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeinfer.converters import architectures

    folder, _ = checkpoint(tmp_path / "model", "Llama", SMALL)
    export(folder, tmp_path / "f32", quant="f32")
    monkeypatch.setattr(architectures, "ARCHITECTURES", ("qwen2",))
    with pytest.raises(UnsupportedModel, match=r"architecture 'llama'.*there are: qwen2"):
        quantized(tmp_path / "f32", tmp_path / "out", "int8")
