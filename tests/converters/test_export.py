"""Exported graphs compute what llama.cpp computes of the same file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf_files import F32, STRING, U32, File, Tensor
from onnx_packages import export
from onnx_runs import Dynamic, Static, divergence
from small_models import small_model, written

from edgeinfer import gguf
from edgeinfer.converters.sources import GGUFSource
from edgeinfer.converters.to_onnx.requantize import values
from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine
from edgeinfer.onnx import package
from edgeinfer.onnx.graph import read_graph

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
N = 100
IDS = np.random.default_rng(5).integers(0, 300, N).astype(np.int32)

Floats = npt.NDArray[np.float32]


def reference(model: Path) -> Floats:
    """llama.cpp's logits of `IDS`, by its own kernels."""
    engine = LlamaCppEngine(model, EngineConfig(n_ctx=256, n_threads=2, kernels=False))
    rows: Floats = engine.forward([Slice(0, IDS, 0, N)]).copy()
    engine.close()
    return rows


def table_of(model: Path) -> Floats:
    """The embeddings of all tokens, as a host looks them up."""
    file = gguf.read(model)
    with GGUFSource(file) as source:
        tensor = source.tensors["token_embd.weight"]
        rows = values(tensor.type, source.rows("token_embd.weight", 0, tensor.n_rows))
    return rows * np.float32(tensor.n_cols**0.5) if file.architecture == "gemma3" else rows


def stretched(scaling: str) -> Callable[[File], None]:
    def change(made: File) -> None:
        """Rope of a longer context."""
        made.keys["llama.rope.scaling.type"] = (STRING, scaling)
        made.keys["llama.rope.scaling.factor"] = (F32, 4.0)
        made.keys["llama.rope.scaling.original_context_length"] = (U32, 512)

    return change


def slowed(made: File) -> None:
    """As Llama 3 has it."""
    factors = np.linspace(1, 8, 32, dtype=np.float32)
    made.tensors.append(Tensor("rope_freqs.weight", (32,), data=factors.tobytes()))


def biased(made: File) -> None:
    rng = np.random.default_rng(9)
    widths = {"attn_q": 256, "attn_k": 128, "attn_v": 128, "attn_output": 256}
    for layer in range(2):
        for name, width in widths.items():
            data = (0.1 * rng.standard_normal(width)).astype(np.float32).tobytes()
            made.tensors.append(Tensor(f"blk.{layer}.{name}.bias", (width,), data=data))


def same(made: File) -> None:
    """As it is."""


CASES: list[tuple[str, Callable[[File], None], dict[str, Any]]] = [
    *((name, same, {"default": "F32"}) for name in ARCHITECTURES),
    *((name, same, {"default": "F16", "tied": True}) for name in ARCHITECTURES),
    ("llama", stretched("linear"), {"default": "F32"}),
    ("llama", stretched("yarn"), {"default": "F32"}),
    ("llama", slowed, {"default": "F32"}),
    ("llama", biased, {"default": "F32"}),
]
NAMES = [
    *(f"{name}-{kind}" for kind in ("F32", "F16-tied") for name in ARCHITECTURES),
    *("llama-linear", "llama-yarn", "llama-factors", "llama-biases"),
]


@pytest.mark.parametrize(("architecture", "change", "options"), CASES, ids=NAMES)
def test_the_graph_is_the_model(
    architecture: str, change: Callable[[File], None], options: dict[str, Any], tmp_path: Path
) -> None:
    """With floats as weights nothing is rounded but llama.cpp's half-precision keys and values. 32 tokens are gemma3's
    window; both variants."""
    made = small_model(architecture, **options)
    change(made)
    model = written(made, tmp_path)
    package_made = export(model, tmp_path / "out", variant=("cpu", "npu"), n_ctx=128)
    wanted = reference(model)
    run = Dynamic(tmp_path / "out")
    limit = 2e-3 if options["default"] == "F32" else 1e-2  # F16: llama.cpp rounds inputs of products to half precision
    assert np.abs(run(IDS[:60]) - wanted[:60]).max() < limit * np.abs(wanted).max()
    assert np.abs(run(IDS[60:61]) - wanted[60]).max() < limit * np.abs(wanted).max()
    assert np.abs(run(IDS[61:], 36) - wanted[97:]).max() < limit * np.abs(wanted).max()
    for size in (1, 8, 64):
        fixed = Static(package_made, tmp_path / "out", size, table_of(model))
        n = min(N // size, 12) * size
        rows = np.concatenate([fixed(IDS[begin : begin + size]) for begin in range(0, n, size)])
        assert np.abs(rows - wanted[:n]).max() < limit * np.abs(wanted).max()


TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "BF16")


@pytest.mark.parametrize("type_name", TYPES)
def test_every_type_of_weights(type_name: str, tmp_path: Path) -> None:
    """Against llama.cpp, which rounds inputs in its own way; a wrong nibble anywhere is a divergence of whole nats."""
    model = written(small_model("llama", default=type_name), tmp_path)
    made = export(model, tmp_path / "out", variant=("cpu", "npu"), n_ctx=128)
    wanted = reference(model)[:64]
    assert divergence(wanted, Dynamic(tmp_path / "out")(IDS[:64])).mean() < 0.01
    fixed = Static(made, tmp_path / "out", 64, table_of(model))
    assert divergence(wanted, fixed(IDS[:64])).mean() < 0.01
    form = made.tensors["blk.0.attn_q.weight"]
    assert form.type == type_name
    assert (form.form == "float") == (type_name == "BF16")
    assert made.measured["correction_bits_per_weight"] <= 0.25 + 32 / 256  # a scale for each short row
    if not form.correction:
        assert made.measured["max_error"] == 0


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_requantizing_says_what_it_costs(quant: str, tmp_path: Path) -> None:
    model = written(small_model("llama", default="F16"), tmp_path)
    made = export(model, tmp_path / "out", quant=quant)
    measured = made.measured
    assert (0.001 < measured["relative_error"] < 0.006) if quant == "int8" else measured["relative_error"] > 0.05
    assert made.tensors["blk.0.attn_q.weight"].form == ("nbits8" if quant == "int8" else "nbits4")
    assert made.tensors["token_embd.weight"].form == "nbits8"
    assert divergence(reference(model), Dynamic(tmp_path / "out")(IDS)).mean() < (0.01 if quant == "int8" else 0.3)


def test_exact_blocks_stay_where_they_are_small_enough(tmp_path: Path) -> None:
    model = written(small_model("llama", default="Q4_0"), tmp_path)
    made = export(model, tmp_path / "out", quant="int4")
    assert made.measured["max_error"] == 0
    assert "relative_error" not in made.measured


# ---- the package


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_package_reads_back(architecture: str, tmp_path: Path) -> None:
    """Every graph passes the engine's own checks, and two exports are the same bytes."""
    model = written(small_model(architecture, default="Q4_K"), tmp_path)
    made = export(model, tmp_path / "out", variant=("cpu", "npu", "cuda"), name="small", n_ctx=128)
    read = package.read(tmp_path / "out")
    assert read == made
    read.check_hashes()
    assert read.name == "small"
    assert read.variants["cpu"] == read.variants["cuda"]
    for variant in read.variants.values():
        for graph in {variant.model, *variant.models}:
            read_graph(read, variant, graph)
    export(model, tmp_path / "again", variant=("cpu", "npu", "cuda"), name="small", n_ctx=128)
    assert (tmp_path / "again" / "edgeinfer.json").read_bytes() == (tmp_path / "out" / "edgeinfer.json").read_bytes()


def test_graphs_of_fixed_shapes_share_their_weights(tmp_path: Path) -> None:
    """And consist of operators that every runtime has."""
    model = written(small_model("gemma3", default="Q4_1"), tmp_path)
    made = export(model, tmp_path / "out", variant=("npu",), n_ctx=128)
    variant = made.variants["npu"]
    graphs = [read_graph(made, variant, name) for name in variant.models]
    offsets = []
    for graph in graphs:
        assert {node.domain for node in graph.graph.node} == {""}
        assert all(dim.dim_value for value in graph.graph.input for dim in value.type.tensor_type.shape.dim)
        stored = [tensor for tensor in graph.graph.initializer if tensor.data_location]
        offsets.append({tensor.name: tensor.external_data[1].value for tensor in stored})
    assert offsets[0] == offsets[1] == offsets[2]
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.onnx")) < 1 << 20


def test_nodes_are_named_after_tensors(tmp_path: Path) -> None:
    """The operators that the engine puts in place of these find them by name."""
    model = written(small_model("qwen2", default="Q4_K"), tmp_path)
    made = export(model, tmp_path / "out")
    graph = read_graph(made, made.variants["cpu"]).graph
    nodes = {node.name: node for node in graph.node}
    assert len(nodes) == len(graph.node)
    assert [*nodes["blk.1.attn_q"].input][1:] == ["blk.1.attn_q.weight.q", "blk.1.attn_q.weight.scales"]
    assert nodes["blk.1.attn_q"].op_type == "MatMulNBits"
    assert nodes["blk.1.attention"].op_type == "GroupQueryAttention"
    assert {value.name for value in graph.input} >= {"input_ids", "attention_mask", "logits_from"}
    shared = {nodes[f"blk.0.attn_{part}.correction"].input[0] for part in "qkv"}
    assert len(shared) == 1  # sums of inputs are made once


def test_config_for_genai(tmp_path: Path) -> None:
    model = written(small_model("gemma3"), tmp_path)
    export(model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert config["model"]["type"] == "gemma3_text"
    assert config["model"]["eos_token_id"] == 2
    assert config["model"]["decoder"]["filename"] == "model.onnx"
    assert config["model"]["decoder"]["num_key_value_heads"] == 2
    assert config["search"]["max_length"] <= config["model"]["context_length"] == 2048


@pytest.mark.model
def test_a_real_model(smollm2: Path, tmp_path: Path) -> None:
    """Blocks with least values, un-permuted rows, tied embeddings: the mean divergence of llama.cpp's own rounding of
    activations is as large."""
    export(smollm2, tmp_path / "out")
    ids = np.random.default_rng(0).integers(100, 40000, 96).astype(np.int32)
    engine = LlamaCppEngine(smollm2, EngineConfig(n_ctx=128, n_threads=2, kernels=False))
    wanted = engine.forward([Slice(0, ids, 0, 96)]).copy()
    engine.close()
    assert divergence(wanted, Dynamic(tmp_path / "out")(ids))[1:].mean() < 0.02
