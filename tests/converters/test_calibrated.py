"""Graphs whose products take and give integers, in ranges found on a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx_packages import damaged, export, options, rewritten
from onnx_runs import divergence
from small_models import small_model, written

from edgeinfer.calibrate import Sample, Watcher
from edgeinfer.converters.to_onnx.activations import Activations
from edgeinfer.converters.to_onnx.calibrated import export_calibrated
from edgeinfer.converters.to_onnx.options import Options
from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.ort_open import open_onnx
from edgeinfer.errors import FormatError, UnsupportedModel, UsageError
from edgeinfer.onnx import package
from edgeinfer.onnx.graph import read_graph

WORDS = ["of all", "the things", "that words", "can", "do", "the", "best", "is", "to be read", "aloud by 2", "or 3"]
RNG = np.random.default_rng(8)
TEXT = " ".join(RNG.choice(WORDS, 600))
IDS = np.frombuffer(" ".join(RNG.choice(WORDS, 60)).encode(), np.uint8)[:192].astype(np.int32)

Floats = npt.NDArray[np.float32]


def reader(folder: Path, names: Sequence[str]) -> Watcher:
    return Watcher(folder, Sample.of(TEXT, "words", 512), names)


def made(model: Path, folder: Path, bits: Any = 16, **others: Any) -> package.Package:
    return export_calibrated(model, folder, reader, asked(activations=Activations(bits), **others))


def asked(**others: Any) -> Options:
    static: dict[str, Any] = {"quant": "int8-static", "variant": ("npu",), "activations": Activations(16), "n_ctx": 192}
    return options(**static | others)


def logits(folder: Path) -> Floats:
    """Through all three graphs."""
    engine = open_onnx(folder, EngineConfig(n_ctx=192, n_threads=2, isolate=True))
    parts = [engine.forward([Slice(0, IDS[a:b], a, b - a)]).copy() for a, b in ((0, 64), (64, 72), (72, 73), (73, 192))]
    engine.close()
    return np.concatenate(parts)


def integers(graph: onnx.GraphProto) -> dict[str, list[Any]]:
    """What comes out of `DequantizeLinear`: [element type, scale, zero point] of each, weights apart."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            scale, zero = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:])
            found[node.output[0]] = [zero.dtype.name, float(scale), int(zero)]
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("bits", [16, 8])
def test_products_of_integers(architecture: str, bits: int, tmp_path: Path) -> None:
    """Every product of the graphs takes integers; it is the model still, the nearer the more bits there are."""
    model = written(small_model(architecture, default="F16"), tmp_path)
    one = made(model, tmp_path / "out", bits)
    assert package.read(tmp_path / "out") == one
    one.check_hashes()
    variant = one.variants["npu"]
    graphs = [read_graph(one, variant, name).graph for name in variant.models]
    for graph in graphs:
        kept, taken = integers(graph), Counter()  # type: ignore[var-annotated]
        weights = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"} - set(kept)
        for node in graph.node:
            if node.op_type != "MatMul":
                continue
            for name in node.input:
                assert name in kept or name in weights, f"{node.name} takes floats: {name}"
                taken[kept[name][0] if name in kept else "weight"] += 1
        n_products = 2 * 7 + 1
        assert taken["weight"] == n_products
        assert taken["uint8"] == (n_products - 1 if bits == 8 else 0)
        assert taken["uint16"] == 2 * 4 * 2 + (1 if bits == 8 else n_products)
    assert integers(graphs[0]) == integers(graphs[1]) == integers(graphs[2])
    export(model, tmp_path / "floats", variant=("npu",), quant="f32", n_ctx=192)
    wanted, found = logits(tmp_path / "floats"), logits(tmp_path / "out")
    assert divergence(wanted, found).mean() < (0.002 if bits == 16 else 0.05)
    assert one.measured["clipped"] == 0 if bits == 16 else one.measured["clipped"] < 0.01
    assert 0 < one.measured["activation_error"] < (0.001 if bits == 16 else 0.05)


def test_ranges_are_used(tmp_path: Path) -> None:
    """With another scale for one value the logits are others: a runtime that left integers out would not notice."""
    model = written(small_model(default="F16"), tmp_path)
    made(model, tmp_path / "out", 8)
    before = logits(tmp_path / "out")

    def coarser(proto: onnx.ModelProto) -> None:
        scale = next(one for one in proto.graph.initializer if one.name == "blk.1.ffn_norm.scale8")
        scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(40), scale.name))

    for size in (1, 8, 64):
        rewritten(tmp_path / "out", coarser, f"npu/s{size}.onnx")
    assert divergence(before, logits(tmp_path / "out")).mean() > 0.005


def test_the_text_decides(tmp_path: Path) -> None:
    """The same text makes the same bytes; what it was is written down."""
    model = written(small_model(default="F16"), tmp_path)
    one, again = (made(model, tmp_path / name) for name in ("a", "b"))
    assert one.calibration == again.calibration == package.Calibration("words", Sample.of(TEXT, "").sha256, 512, 3)
    names = ("edgeinfer.json", *one.variants["npu"].files)
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)

    def other(folder: Path, names: Sequence[str]) -> Watcher:
        return Watcher(folder, Sample.of("0 1 2 3 " * 99, "digits", 512), names)

    export_calibrated(model, tmp_path / "c", other, asked())
    assert (tmp_path / "c" / "npu/s1.onnx").read_bytes() != (tmp_path / "a" / "npu/s1.onnx").read_bytes()
    assert json.loads((tmp_path / "c" / "edgeinfer.json").read_text())["calibration"]["text"] == "digits"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_four_bits(tmp_path: Path) -> None:
    model = written(small_model(default="F16"), tmp_path)
    one = made(model, tmp_path / "out", quant="int4-static", block=64)
    assert one.tensors["blk.0.attn_q.weight"] == package.TensorForm("F16", "nbits4", 64)
    assert one.tensors["output.weight"] == package.TensorForm("F16", "rows8", 0)
    graph = read_graph(one, one.variants["npu"]).graph
    assert "blk.1.ffn_gated.int16.floats" in integers(graph)
    with pytest.raises(UnsupportedModel, match="give what it was made from"):
        export(tmp_path / "out", tmp_path / "again", variant=("npu",), quant="int8")
    export(model, tmp_path / "int4", variant=("npu",), quant="int4", block=64, n_ctx=192)
    assert divergence(logits(tmp_path / "int4"), logits(tmp_path / "out")).mean() < 0.02


def test_rows_of_any_length(tmp_path: Path) -> None:
    """One scale a row asks for no whole blocks."""
    model = written(small_model("llama", default="F16"), tmp_path)
    one = made(model, tmp_path / "out")
    assert {form.form for form in one.tensors.values()} == {"rows8", "float"}
    assert {name for name, form in one.tensors.items() if form.form == "float"} == {
        name for name in one.tensors if "norm" in name
    }


def test_what_goes_wrong_leaves_nothing(tmp_path: Path) -> None:
    model = written(small_model(), tmp_path)
    with pytest.raises(UsageError, match=r"int8-static is for --variant npu, .* and not for cpu"):
        made(model, tmp_path / "out", variant=("cpu", "npu"))
    with pytest.raises(UsageError, match="give one with --calibrate"):
        export(model, tmp_path / "out", variant=("npu",), quant="int8-static")
    with pytest.raises(UsageError, match="int8 leaves what products take as it is"):
        export(model, tmp_path / "out", variant=("npu",), quant="int8", activations=Activations(8))

    def short(folder: Path, names: Sequence[str]) -> Watcher:
        return Watcher(folder, Sample.of("too short", "words"), names)

    with pytest.raises(UsageError, match="too few"):
        export_calibrated(model, tmp_path / "out", short, asked())
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


@pytest.mark.parametrize(
    ("field", "value"), [("sha256", "no hash"), ("tokens", 0), ("windows", "3"), ("text", 3), ("sha256", None)]
)
def test_a_manifest_that_lies_about_the_text(field: str, value: object, tmp_path: Path) -> None:
    export(written(small_model(), tmp_path), tmp_path / "out")
    right = {"text": "words", "sha256": "0" * 64, "tokens": 512, "windows": 3}
    damaged(tmp_path / "out", lambda manifest: manifest.update(calibration=right))
    assert package.read(tmp_path / "out").calibration == package.Calibration("words", "0" * 64, 512, 3)
    damaged(tmp_path / "out", lambda manifest: manifest.update(calibration=right | {field: value}))
    with pytest.raises(FormatError, match=f"calibration: {field}"):
        package.read(tmp_path / "out")
