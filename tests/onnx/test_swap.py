"""A package's graph with our operators in it: the same model, the same bits in any company, weights packed once."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_packages import damaged, export, rewritten, small_package
from operator_graphs import Floats
from small_models import small_model, written

from edgeinfer.converters.to_onnx.requantize import Quant
from edgeinfer.errors import EdgeInferError, FormatError, UnsupportedModel
from edgeinfer.onnx import operators, package
from edgeinfer.onnx.graph import read_graph
from edgeinfer.onnx.rewriting import attribute
from edgeinfer.onnx.swap import DOMAIN, Swapped, swap
from edgeinfer.packed import store
from edgeinfer.packed.identity import identify

pytestmark = pytest.mark.skipif(bool(operators.why_not()), reason=f"without our operators: {operators.why_not()}")

IDS = np.random.default_rng(3).integers(0, 300, 40)


def package_of(folder: Path, kind: str, *, seed: int = 0, quant: Quant = "keep", **options: Any) -> Path:
    """A package of a model whose matrices are of that type."""
    folder.mkdir()
    export(written(small_model(default=kind, seed=seed), folder), folder / "package", quant=quant, **options)
    return folder / "package"


def swapped_of(folder: Path, **options: Any) -> Swapped:
    read = package.read(folder)
    options = {"n_threads": 2, "n_threads_batch": 2, **options}
    return swap(read, read_graph(read, read.variants["cpu"]), **options)


class Swap:
    """A session of a swapped graph, with one sequence in cells of their own order."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.swapped = swapped_of(folder, **options)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = 2
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        operators.register(settings)
        self.values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in self.swapped.initializers.items()
        }
        for name, value in self.values.items():
            settings.add_initializer(name, value)
        self.session = onnxruntime.InferenceSession(self.swapped.model, settings, providers=["CPUExecutionProvider"])
        self.cells = np.random.default_rng(1).permutation(64)
        self.pool = np.zeros((self.swapped.n_layers, 2, 64, self.swapped.cell_bytes), np.uint8)

    def logits(self, begin: int, end: int, window: int = 0) -> Floats:
        masks = {}
        for name, width in (("mask", 64), ("mask_window", window)):
            if name in self.swapped.inputs:
                masks[name] = np.full((end - begin, 64), -np.inf, np.float16)
                for i in range(begin, end):
                    masks[name][i - begin, self.cells[max(0, i + 1 - width) : i + 1]] = 0
        feeds = {"input_ids": IDS[None, begin:end], "positions": np.arange(begin, end), **masks}
        feeds |= {"cells": self.cells[begin:end], "rows": np.arange(end - begin), "pool": self.pool}
        (found,) = self.session.run(["logits"], feeds)
        rows: Floats = found[0]
        return rows


def plain_logits(folder: Path) -> Floats:
    """Of ONNX Runtime's own operators."""
    sizes = package.read(folder).hyperparameters
    nothing = np.zeros((1, sizes.n_kv_heads, 0, sizes.head_dim), np.float32)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(folder / "model.onnx", settings, providers=["CPUExecutionProvider"])
    names = [f"past_key_values.{i}.{part}" for i in range(sizes.n_layers) for part in ("key", "value")]
    feeds = {"input_ids": IDS[None], "attention_mask": np.ones((1, len(IDS)), np.int64)}
    (found,) = session.run(["logits"], {**feeds, **dict.fromkeys(names, nothing)})
    rows: Floats = found[0]
    return rows


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gemma3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("packages"), request.param)[1]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return small_package(tmp_path)[1]


def test_it_is_the_same_model(folder: Path) -> None:
    window = package.read(folder).hyperparameters.sliding_window or 0
    ours, plain = Swap(folder).logits(0, len(IDS), window), plain_logits(folder)
    assert np.abs(ours - plain).max() < 0.1 * np.abs(plain).max()
    assert (ours.argmax(axis=1) == plain.argmax(axis=1)).mean() > 0.85


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_any_cut_gives_the_same_bits(folder: Path, kv_type: str) -> None:
    sizes = package.read(folder).hyperparameters
    if sizes.head_dim % 32:
        pytest.skip("heads that have no whole blocks")
    window = sizes.sliding_window or 0
    whole = Swap(folder, kv_type=kv_type).logits(0, len(IDS), window)
    for step, n_threads in ((1, 2), (7, 1), (16, 2)):
        cut = Swap(folder, kv_type=kv_type, n_threads=n_threads, n_threads_batch=n_threads)
        rows = [cut.logits(at, min(len(IDS), at + step), window) for at in range(0, len(IDS), step)]
        assert np.array_equal(np.concatenate(rows), whole)


def test_all_of_it_is_ours(folder: Path) -> None:
    """Between our operators only what treats each element by itself; products with one input are one node."""
    made = swapped_of(folder)
    sizes = package.read(folder).hyperparameters
    ours = Counter(node.op_type for node in made.proto.graph.node if node.domain == DOMAIN)
    assert ours["Multiply"] == 4 * sizes.n_layers + 1
    assert ours["Attention"] == ours["Gate"] == sizes.n_layers == made.n_layers
    assert ours["Normalize"] >= 2 * sizes.n_layers + 1
    others = {node.op_type for node in made.proto.graph.node if node.domain != DOMAIN}
    assert others <= {"Add", "Cast", "Gather", "GatherBlockQuantized", "Mul", "Reshape"}
    assert made.windowed_layers == tuple(i for i in range(sizes.n_layers) if sizes.windowed(i))
    assert {"rows", "output_norm"} <= {node.name for node in made.proto.graph.node}
    names = {name for node in made.proto.graph.node for name in node.input}
    assert {tensor.name for tensor in made.proto.graph.initializer} <= names, "what nobody reads is dropped"
    assert not any(name.startswith(("past_", "attention_mask")) for name in made.inputs)


def test_no_rows_at_all(llama: Path) -> None:
    swap_ = Swap(llama)
    feeds = {"input_ids": IDS[None, :2], "positions": np.arange(2), "cells": np.arange(2), "pool": swap_.pool}
    feeds |= {"mask": np.zeros((2, 2), np.float16), "rows": np.empty(0, np.int64)}
    (found,) = swap_.session.run(["logits"], feeds)
    assert found.shape[1] == 0
    assert swap_.pool.any(), "keys and values are kept all the same"


def test_a_float_model(tmp_path: Path) -> None:
    for kind in ("F32", "F16", "BF16"):
        made = package_of(tmp_path / kind, kind)
        swap_ = Swap(made)
        assert {matrix.type_name for matrix in swap_.swapped.packed._matrices.values()} == {kind}
        ours, plain = swap_.logits(0, len(IDS)), plain_logits(made)
        assert np.abs(ours - plain).max() < 0.02 * np.abs(plain).max()


@pytest.mark.parametrize("quant", ["int4", "int8", "int8-dynamic"])
def test_a_model_that_was_quantized_again(tmp_path: Path, quant: Quant) -> None:
    """Its scales are of any size: what rounding them costs is said."""
    made = package_of(tmp_path / quant, "F32", quant=quant)
    swap_ = Swap(made)
    ours, plain = swap_.logits(0, len(IDS)), plain_logits(made)
    assert np.abs(ours - plain).max() < 0.1 * np.abs(plain).max()
    kinds = {matrix.type_name for matrix in swap_.swapped.packed._matrices.values()}
    assert kinds <= {"Q4_0", "Q8_0"}
    terms = {attribute(node, "two_terms") for node in nodes(swap_.swapped.proto, "Multiply")}
    assert terms == ({1} if quant == "int8" else {0})
    exact = not any(matrix.rounded for matrix in swap_.swapped.packed._matrices.values())
    assert ("were rounded" in swap_.swapped.notice) != exact


@pytest.mark.parametrize(("kind", "terms"), [("Q8_0", 1), ("Q4_0", 0)])
def test_where_weights_have_eight_bits_inputs_have_more(tmp_path: Path, kind: str, terms: int) -> None:
    made = swapped_of(package_of(tmp_path / kind, kind))
    assert {attribute(node, "two_terms") for node in nodes(made.proto, "Multiply")} == {terms}


@pytest.fixture(scope="module", params=[32, 64, 128])
def around_points(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("points")
    model = written(small_model(default="F16"), folder)
    return export(model, folder / "package", quant="int4", block=request.param, zero_points=True).folder


def test_zero_points_are_ours_too(around_points: Path) -> None:
    """Whatever the blocks' length, and with the very same weights; the table of embeddings has none."""
    swap_ = Swap(around_points)
    kinds = {name: matrix.type_name for name, matrix in swap_.swapped.packed._matrices.items()}
    assert kinds == {name: "Q8_0" if name == "output.weight" else "Q4_1" for name in kinds}
    assert not swap_.swapped.notice
    whole, plain = swap_.logits(0, len(IDS)), plain_logits(around_points)
    assert np.abs(whole - plain).max() < 0.1 * np.abs(plain).max()
    for step, n_threads in ((1, 2), (7, 1)):
        cut = Swap(around_points, n_threads=n_threads, n_threads_batch=n_threads)
        rows = [cut.logits(at, min(len(IDS), at + step)) for at in range(0, len(IDS), step)]
        assert np.array_equal(np.concatenate(rows), whole)


def test_zero_points_under_scales_that_are_no_halves(tmp_path: Path) -> None:
    """Others write such graphs: what our kernels round is said."""
    made = package_of(tmp_path / "small", "F16", quant="int4", zero_points=True)
    proto = read_graph_unchecked(made)
    tensor = weights(proto, "attn_q.weight.scales")
    about = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key in ("offset", "length")}
    with (made / "model.onnx.data").open("rb+") as stream:
        stream.seek(about["offset"])
        scales = np.frombuffer(stream.read(about["length"]), "<f4") * np.float32(1.0003)
        stream.seek(about["offset"])
        stream.write(scales.tobytes())
    swap_ = Swap(made)
    assert swap_.swapped.notice.startswith("1 weights have scales that our kernels keep in half precision")
    ours, plain = swap_.logits(0, len(IDS)), plain_logits(made)
    assert np.abs(ours - plain).max() < 0.1 * np.abs(plain).max()


# ---- packed once


def test_a_second_load_packs_nothing(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "1")
    time.sleep(0.03)  # files that are newer could still change unseen
    first = Swap(llama)
    whole = first.logits(0, len(IDS))
    assert not first.swapped.packed.mapped
    finish(first.swapped)
    (stored,) = store.folder().glob("*.bin")
    monkeypatch.setattr("edgeinfer.onnx.packing._packed", forbidden)
    second = Swap(llama)
    assert second.swapped.packed.mapped
    assert not second.swapped.notice
    assert np.array_equal(second.logits(0, len(IDS)), whole)
    assert stored.exists()
    for name, array in first.swapped.initializers.items():
        assert np.array_equal(second.swapped.initializers[name], array)
    second.swapped.close()


def test_an_image_that_was_damaged(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "1")
    time.sleep(0.03)  # files that are newer could still change unseen
    first = Swap(llama)
    whole = first.logits(0, len(IDS))
    finish(first.swapped)
    (stored,) = store.folder().glob("*.bin")
    os.truncate(stored, stored.stat().st_size // 2)
    again = Swap(llama)
    assert str(stored) in again.swapped.notice
    assert not again.swapped.packed.mapped
    assert np.array_equal(again.logits(0, len(IDS)), whole)
    again.swapped.close()


def test_the_image_of_other_weights_does_harm_to_nobody(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a key to lie: names, formats, shapes and sizes are held against the graph's once more."""
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "1")
    other = package_of(tmp_path / "other", "Q4_K", seed=5)
    whole = Swap(other).logits(0, len(IDS))
    time.sleep(0.03)  # files that are newer could still change unseen
    finish(swapped_of(llama))
    key = identify(llama)
    monkeypatch.setattr("edgeinfer.packed.identify", lambda _path: key)
    again = Swap(other)
    assert "they are not those of this model" in again.swapped.notice
    assert np.array_equal(again.logits(0, len(IDS)), whole)
    again.swapped.close()


def finish(swapped: Swapped) -> None:
    """Wait until the weights are in their file."""
    writer = swapped.packed._weights._writer
    assert writer is not None
    writer._thread.join(60)
    swapped.close()


def forbidden(*_arguments: object) -> None:
    raise AssertionError("packed again")


# ---- what is refused


def nodes(proto: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == op_type]


def with_softmax(proto: onnx.ModelProto) -> None:
    node = proto.graph.node[-1]
    node.output[0] = "raw"
    proto.graph.node.append(helper.make_node("Softmax", ["raw"], ["logits"], "last"))


def set_int(op_type: str, name: str, value: int) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        node = nodes(proto, op_type)[0]
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def without_rows(proto: onnx.ModelProto) -> None:
    (node,) = nodes(proto, "Slice")
    node.op_type = "Identity"
    del node.input[1:]


def other_points(proto: onnx.ModelProto) -> None:
    first, second = nodes(proto, "MatMulNBits")[:2]
    first.input.append(second.input[1])


def other_weight(proto: onnx.ModelProto) -> None:
    first, second = nodes(proto, "MatMulNBits")[:2]
    first.input[2] = second.input[2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (with_softmax, UnsupportedModel, "the graph has Softmax between our operators"),
        (set_int("GroupQueryAttention", "smooth_softmax", 1), UnsupportedModel, "attends in a way"),
        (set_int("GroupQueryAttention", "rotary_interleaved", 1), UnsupportedModel, "attends in a way"),
        (set_int("SimplifiedLayerNormalization", "axis", 1), UnsupportedModel, "no norm over the last axis"),
        (without_rows, UnsupportedModel, "no node that takes the rows"),
        (other_points, UnsupportedModel, "does not multiply by a weight and its scales"),
        (other_weight, UnsupportedModel, "does not multiply by a weight and its scales"),
    ],
)
def test_graphs_that_our_operators_do_not_do(
    llama: Path, change: Callable[[onnx.ModelProto], None], error: type[EdgeInferError], message: str
) -> None:
    rewritten(llama, change)
    with pytest.raises(error, match=message):
        swap(package.read(llama), read_graph_unchecked(llama), n_threads=1, n_threads_batch=1)


def weights(proto: onnx.ModelProto, suffix: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith(suffix))
    return found


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensor: tensor.dims.__setitem__(0, tensor.dims[0] + 1), "has the shape"),
        (lambda tensor: setattr(tensor, "data_type", TensorProto.INT8), "is of type 3, not uint8"),
        (lambda tensor: setattr(tensor.external_data[1], "value", str(1 << 50)), "does not end within its file"),
        (lambda tensor: setattr(tensor.external_data[1], "value", "-64"), "does not end within its file"),
    ],
)
def test_weights_that_are_not_as_nodes_say(
    llama: Path, damage: Callable[[onnx.TensorProto], None], message: str
) -> None:
    """Engines check graphs before; the swap trusts nobody either."""
    read = package.read(llama)
    proto = onnx.load(llama / "model.onnx", load_external_data=False)
    tensor = weights(proto, "attn_q.weight.q")
    assert tensor.external_data[1].key == "offset"
    damage(tensor)
    with pytest.raises(FormatError, match=message):
        swap(read, proto, n_threads=1, n_threads_batch=1)


def test_a_manifest_that_lies_about_types(llama: Path) -> None:
    """The source's type says which format is tried first; the weights decide."""
    whole = Swap(llama).logits(0, len(IDS))

    def lie(manifest: dict[str, Any]) -> None:
        for form in manifest["quantization"]["tensors"].values():
            form["type"] = "Q6_K"

    damaged(llama, lie)
    found = Swap(llama).logits(0, len(IDS))
    assert np.abs(found - whole).max() < 0.05 * np.abs(whole).max()


def test_heads_that_have_no_blocks_in_the_cache(llama: Path) -> None:
    damaged(llama, lambda manifest: manifest["hyperparameters"].__setitem__("head_dim", 48))
    read = package.read(llama)
    with pytest.raises(UnsupportedModel, match="heads of 48 cannot be kept as q8_0"):
        swap(read, read_graph_unchecked(llama), n_threads=1, n_threads_batch=1, kv_type="q8_0")


def read_graph_unchecked(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "model.onnx", load_external_data=False)


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_KERNELS", "0")
    operators.why_not.cache_clear()
    try:
        assert "switched off" in operators.why_not()
        with pytest.raises(EdgeInferError, match="switched off"):
            operators.register(onnxruntime.SessionOptions())
    finally:
        operators.why_not.cache_clear()


def test_a_runtime_in_which_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_path: str) -> float:
        raise RuntimeError("no\nsuch thing")

    for difference, why in (
        (broken, "do not run in this ONNX Runtime: no such thing"),
        (lambda _: 0.5, "wrong result"),
    ):
        monkeypatch.setattr("edgeinfer.onnx.self_test.difference", difference)
        operators.why_not.cache_clear()
        assert why in operators.why_not()
    operators.why_not.cache_clear()
