"""Packages that somebody made with intent: each is refused by name before a session sees its graph."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from onnx_packages import damaged, rewritten, small_package

from edgeinfer.engines import EngineConfig, ort_session
from edgeinfer.engines.ort_open import open_onnx
from edgeinfer.errors import EdgeInferError, FormatError, UnsupportedModel

CONFIG = EngineConfig(n_ctx=64, n_threads=1)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("sound"))[1]


@pytest.fixture
def package(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that no session may be opened of."""

    def none(*_: object) -> None:
        raise AssertionError("a session was opened of a package that must be refused")

    monkeypatch.setattr(ort_session, "open_session", none)
    shutil.copytree(sound, tmp_path / "package")
    return tmp_path / "package"


def refused(package: Path, message: str, kind: type[EdgeInferError] = FormatError) -> None:
    with pytest.raises(kind, match=message):
        open_onnx(package, CONFIG)


def weight(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    return found


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(each for each in proto.graph.node if each.name == name)
    return found


def entry(tensor: onnx.TensorProto, key: str, value: str) -> None:
    next(each for each in tensor.external_data if each.key == key).value = value


Q = "blk.0.attn_q.weight.q"


def _location(value: str) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: entry(weight(proto, Q), "location", value)


def _numbers(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: entry(weight(proto, Q), key, value)


def _dims(name: str, *dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        del weight(proto, name).dims[:]
        weight(proto, name).dims.extend(dims)

    return change


def _operator(op_type: str, domain: str) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        node(proto, "blk.0.attention").op_type = op_type
        node(proto, "blk.0.attention").domain = domain

    return change


def _attribute(name: str, key: str, value: int) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        next(each for each in node(proto, name).attribute if each.name == key).i = value

    return change


def _subgraph(proto: onnx.ModelProto) -> None:
    graph = helper.make_graph([], "inner", [], [])
    node(proto, "blk.0.attention").attribute.append(helper.make_attribute("body", graph))


def _function(proto: onnx.ModelProto) -> None:
    proto.functions.append(helper.make_function("own", "Add", ["a"], ["b"], [], [helper.make_opsetid("", 21)]))


def _domain(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("com.evil", 1))


def _twice(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(weight(proto, Q))


def _extra_input(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("secret", TensorProto.FLOAT, [1]))


def _logits(proto: onnx.ModelProto) -> None:
    output = next(each for each in proto.graph.output if each.name == "logits")
    output.type.tensor_type.shape.dim[2].dim_value = 299


def _missing_output(proto: onnx.ModelProto) -> None:
    del proto.graph.output[1]


def _raw(proto: onnx.ModelProto) -> None:
    tensor = next(each for each in proto.graph.initializer if each.raw_data)
    tensor.raw_data = tensor.raw_data[:-1]


@pytest.mark.parametrize(
    ("change", "message", "kind"),
    [
        (_location("/etc/passwd"), r"lies in '/etc/passwd', which is no file", FormatError),
        (_location("../other.data"), r"lies in '\.\./other\.data'", FormatError),
        (_location("vocab.gguf"), "which is no file of this package's variant", FormatError),
        (_location(""), "which is no file", FormatError),
        (_numbers("offset", "99999999999"), r"attn_q\.weight\.q' ends at byte .* truncated", FormatError),
        (_numbers("offset", "-8"), "is no number", FormatError),
        (_numbers("length", "7"), "has 7 bytes of data where its shape says", FormatError),
        (_numbers("length", "1" * 30), "is no number", FormatError),
        (_dims(Q, 4, 8, 16), r"attn_q\.weight\.q.* bytes of data where its shape says", FormatError),
        (_dims(Q, -1, 8, 16), "type or shape that cannot be", FormatError),
        (_dims(Q, 1 << 40, 1 << 40), "type or shape that cannot be", FormatError),
        (_operator("If", ""), r"'blk\.0\.attention' is of the unknown operator 'If'", UnsupportedModel),
        (_operator("Attention", "com.evil"), "unknown operator 'com.evil::Attention'", UnsupportedModel),
        (_operator("Multiply", "edgeinfer"), "unknown operator 'edgeinfer::Multiply'", UnsupportedModel),
        (_attribute("blk.0.attn_q", "K", 1 << 20), r"weight 'blk\.0\.attn_q\.weight\.q' .* has shape", FormatError),
        (_attribute("blk.0.attn_q", "N", 255), r"blk\.0\.attn_q\.weight\.q", FormatError),
        (_attribute("blk.0.attn_q", "bits", 3), "3 bits in blocks", FormatError),
        (_attribute("blk.0.attention", "num_heads", 64), "64, 2.* heads, but edgeinfer.json", FormatError),
        (_subgraph, "holds a graph of its own", UnsupportedModel),
        (_function, "defines functions", UnsupportedModel),
        (_domain, "'com.evil' version 1", UnsupportedModel),
        (_twice, "two weights are called", FormatError),
        (_extra_input, "unknown input 'secret'", FormatError),
        (_logits, "'logits' is FLOAT .*299.*, not FLOAT .*300", FormatError),
        (_missing_output, "lacks output 'present", FormatError),
        (_raw, "bytes where its shape says", FormatError),
    ],
)
def test_a_graph_that_lies(
    package: Path, change: Callable[[onnx.ModelProto], None], message: str, kind: type[EdgeInferError]
) -> None:
    rewritten(package, change)
    refused(package, message, kind)


@pytest.fixture(scope="module")
def around_points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("points"), quant="int4", zero_points=True)[1]


ZEROS = "blk.0.attn_q.weight.zeros"


def _shorter(proto: onnx.ModelProto) -> None:
    """With as few bytes as its shape says."""
    tensor = weight(proto, ZEROS)
    tensor.dims[0] -= 1
    entry(tensor, "length", str(tensor.dims[0] * tensor.dims[1]))


def _typed(kind: int, columns: int) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        tensor = weight(proto, ZEROS)
        tensor.data_type, tensor.dims[1] = kind, columns
        size = 4 if kind == TensorProto.FLOAT else 1
        entry(tensor, "length", str(tensor.dims[0] * columns * size))

    return change


def _cast(proto: onnx.ModelProto) -> None:
    """Zero points as floats would be one a number."""
    at = next(i for i, each in enumerate(proto.graph.node) if each.name == "blk.0.attn_q")
    proto.graph.node[at].input[3] = "cast"
    proto.graph.node.insert(at, helper.make_node("Cast", [ZEROS], ["cast"], "cast", to=TensorProto.FLOAT))


def _input(at: int, name: str) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        inputs = node(proto, "blk.0.attn_q").input
        inputs.extend([""] * (at + 1 - len(inputs)))
        inputs[at] = name

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shorter, r"attn_q\.weight\.zeros' of node 'blk\.0\.attn_q' has shape \[255, 4\], not \[256, 4\]"),
        (_typed(TensorProto.FLOAT, 4), "zeros' of node 'blk.0.attn_q' are not of type uint8"),
        (_typed(TensorProto.FLOAT, 8), r"has shape \[256, 8\], not \[256, 4\]"),
        (_typed(TensorProto.INT8, 4), "are not of type uint8"),
        (_cast, "of node 'blk.0.attn_q' has shape"),
        (_input(3, "nowhere"), "input 3 of node 'blk.0.attn_q' is no weight"),
        (_input(3, "input_ids"), "input 3 of node 'blk.0.attn_q' is no weight"),
        (_input(3, "blk.0.ffn_down.weight.zeros"), r"has shape \[256, 8\], not \[256, 4\]"),
        (_input(4, ZEROS), "'blk.0.attn_q' has groups"),
        (lambda proto: entry(weight(proto, ZEROS), "offset", "99999999999"), r"zeros' ends at byte .* truncated"),
    ],
)
def test_zero_points_that_lie(
    around_points: Path,
    change: Callable[[onnx.ModelProto], None],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ort_session, "open_session", lambda *_: pytest.fail("a session was opened"))
    shutil.copytree(around_points, tmp_path / "package")
    rewritten(tmp_path / "package", change)
    refused(tmp_path / "package", message)


def test_garbage_instead_of_a_graph(package: Path) -> None:
    data = (package / "model.onnx").read_bytes()
    (package / "model.onnx").write_bytes(bytes(len(data)))
    refused(package, "hash is not that in edgeinfer.json")
    (package / "model.onnx").write_bytes(data[:-10])
    refused(package, "truncated or from another conversion")


def test_a_truncated_data_file(package: Path) -> None:
    os.truncate(package / "model.onnx.data", 1000)
    refused(package, r"model\.onnx\.data has 1000 bytes")


def test_links_and_ways_out(package: Path, tmp_path: Path) -> None:
    data = package / "model.onnx.data"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    refused(package, "is a link")
    data.unlink()
    os.mkfifo(data)
    refused(package, "not a regular file")
    damaged(package, lambda manifest: manifest["variants"]["cpu"].update(model="../../x.onnx"))
    refused(package, r"\.\./\.\./x\.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["hyperparameters"].update(n_vocab=299), "has 300 tokens, but edgeinfer.json says 299"),
        (lambda m: m["hyperparameters"].update(n_layers=3), "lacks input 'past_key_values.2.key'"),
        (lambda m: m["hyperparameters"].update(n_kv_heads=4), "heads|not FLOAT"),
        (lambda m: m["hyperparameters"].update(head_dim=32), "not FLOAT|has shape"),
        (lambda m: m["hyperparameters"].update(n_ctx_train=1 << 20), "has shape"),
    ],
)
def test_a_manifest_that_lies(package: Path, change: Callable[[dict[str, object]], None], message: str) -> None:
    damaged(package, change)
    refused(package, message)
