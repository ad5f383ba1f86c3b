"""Each architecture: a tiny checkpoint made by transformers, as an ONNX package, says the same as in transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from checkpoint_cases import BASE, CASES, LONG
from onnx_packages import export
from onnx_runs import divergence
from tiny_checkpoints import checkpoint, engine_logits, their_logits, token_ids, torch_and_transformers

from edgeinfer.converters.architectures import ARCHITECTURES
from edgeinfer.converters.to_gguf import Options, convert
from edgeinfer.converters.to_onnx.requantize import Quant
from edgeinfer.errors import EdgeInferError, FormatError, ModelNotFound, UnsupportedModel, UsageError
from edgeinfer.onnx import operators, package

torch_and_transformers()

Floats = npt.NDArray[np.float32]
EXACT = 1e-4
STORED_HALVES = 2e-3
"""Of the largest logit: what our operators' keys and values cost, which are kept in half precision."""
ONLY_THEIRS = ("mixtral", "qwen3moe", "gemma2")


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    """By ONNX Runtime's operators, in one pass and in several, and by ours where they can."""
    name, config = CASES[case]
    folder, model = checkpoint(tmp_path / "model", name, config)
    made = export(folder, tmp_path / "out", quant="f32")
    assert "relative_error" not in made.measured
    ids = token_ids()
    theirs = their_logits(model, ids)
    largest = float(np.abs(theirs).max())
    assert float(theirs.std()) > 0.1
    for step in (64, 7):
        plain, _ = engine_logits(tmp_path / "out", ids, kernels=False, step=step)
        assert float(np.abs(plain - theirs).max()) < EXACT
    ours, notices = engine_logits(tmp_path / "out", ids)
    assert float(np.abs(ours - theirs).max()) < STORED_HALVES * largest
    if not operators.why_not():
        said = any("ONNX Runtime's own kernels are used: our operators do not have" in notice for notice in notices)
        assert said == case.startswith(ONLY_THEIRS)


def test_every_architecture_is_among_the_cases(tmp_path: Path) -> None:
    """The classes that are convertible and not encoders."""
    seen = set()
    for case in CASES:
        name, config = CASES[case]
        folder, _ = checkpoint(tmp_path / case, name, {**config, "num_hidden_layers": 3})
        seen.add(export(folder, tmp_path / f"{case}-onnx").architecture)
    assert seen == {*ARCHITECTURES} - {"bert", "nomic-bert"}


@pytest.mark.parametrize("case", ["llama-3", "qwen3moe", "gemma2", "gemma3", "phi3-partial", "olmo2", "granite"])
def test_the_way_over_gguf_gives_the_same_package(case: str, tmp_path: Path) -> None:
    name, config = CASES[case]
    folder, _ = checkpoint(tmp_path / "model", name, config)
    made = convert(folder, tmp_path / "model.gguf", Options("F32"))
    for source, to in ((folder, "direct"), (made.written.path, "over")):
        export(source, tmp_path / to, quant="f32")
    for file in ("model.onnx", "model.onnx.data", "tokenizer.json"):
        assert (tmp_path / "direct" / file).read_bytes() == (tmp_path / "over" / file).read_bytes(), file


BOUNDS = {"f16": 1e-5, "bf16": 2e-4, "int8": 2e-3, "int4": 0.2}
"""Mean KL. Random weights suffer more than those of models: 4 bits cost them 8 % each."""


@pytest.mark.parametrize("quant", BOUNDS)
@pytest.mark.parametrize("case", ["llama-tied", "gemma2", "qwen3moe", "phi3"])
def test_fewer_bits_are_near(case: str, quant: Quant, tmp_path: Path) -> None:
    """Of experts the median counts: where rounding makes the router choose another, a token is another."""
    name, config = CASES[case]
    folder, model = checkpoint(tmp_path / "model", name, config)
    made = export(folder, tmp_path / "out", quant=quant)
    assert made.mode == quant
    ids = token_ids()
    found = divergence(their_logits(model, ids), engine_logits(tmp_path / "out", ids)[0])
    assert float(np.median(found) if "moe" in case else found.mean()) < BOUNDS[quant]
    forms = {form.form for form in made.tensors.values() if form.block}
    assert forms == {"f16": set(), "bf16": set(), "int8": {"nbits8"}, "int4": {"nbits4", "nbits8"}}[quant]
    assert (1e-5 if quant == "f16" else 1e-3) < made.measured["relative_error"] < 0.1


def test_rows_that_are_no_whole_blocks_stay_floats(tmp_path: Path) -> None:
    name, config = CASES["qwen2"]
    folder, model = checkpoint(tmp_path / "model", name, {**config, "intermediate_size": 100})
    made = export(folder, tmp_path / "out", quant="int8")
    assert made.measured["unfit_matrices"] == 3  # ffn_down of each layer
    assert made.tensors["blk.1.ffn_down.weight"].form == "float"
    ids = token_ids()
    ours, _ = engine_logits(tmp_path / "out", ids)
    assert float(divergence(their_logits(model, ids), ours).mean()) < BOUNDS["int8"]


def test_stored_halves_are_kept_as_they_are(tmp_path: Path) -> None:
    """``keep``, of a checkpoint in several files; Gemma's norms, which are changed, are floats."""
    torch, transformers = torch_and_transformers()
    name, config = CASES["gemma3"]
    folder, model = checkpoint(tmp_path / "model", name, config)
    (folder / "model.safetensors").unlink()
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    made = export(folder, tmp_path / "out")
    assert made.tensors["blk.0.attn_q.weight"].type == "BF16"
    assert made.tensors["blk.0.attn_norm.weight"].type == "F32"
    ids = token_ids()
    theirs = their_logits(transformers.Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.float32), ids)
    assert float(np.abs(engine_logits(tmp_path / "out", ids, kernels=False)[0] - theirs).max()) < EXACT
    assert len(made.source_sha256) == 64
    assert package.read(tmp_path / "out") == made


def test_the_context_chooses_the_rope(tmp_path: Path) -> None:
    """As llama.cpp does: factors for a long text in a long context, those for a short one else."""
    settings = {**BASE, "rope_parameters": LONG, "original_max_position_embeddings": 32}
    folder, model = checkpoint(tmp_path / "model", "Phi3", settings)
    export(folder, tmp_path / "out", quant="f32", variant=("cpu", "npu"), n_ctx=128)
    ids = token_ids()
    long, short = engine_logits(tmp_path / "out", ids)[0], engine_logits(tmp_path / "out", ids[:32], n_ctx=32)[0]
    assert float(np.abs(long - their_logits(model, ids)).max()) < 0.01
    assert float(np.abs(short - their_logits(model, ids[:32])).max()) < 0.01
    assert float(np.abs(short - long[:32]).max()) > 0.1
    config = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert config["model"]["context_length"] == 32, "GenAI knows the short ones alone"


@pytest.mark.parametrize("case", ["gemma2", "phi3", "phi3-partial", "olmo2", "granite", "llama-odd", "mistral"])
def test_graphs_of_fixed_shapes(case: str, tmp_path: Path) -> None:
    name, config = CASES[case]
    folder, model = checkpoint(tmp_path / "model", name, config)
    export(folder, tmp_path / "out", quant="f32", variant=("npu",), n_ctx=128)
    ids = token_ids()
    ours, _ = engine_logits(tmp_path / "out", ids)
    assert float(np.abs(ours - their_logits(model, ids)).max()) < EXACT


# ---- what is refused


def lacking(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])


def renamed(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data.replace(b"layers.1.mlp.up_proj", b"layers.1.mlp.un_proj"))


def of_class(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))

    return change


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


WRONG: list[tuple[Callable[[Path], None], type[EdgeInferError], str]] = [
    (lacking, FormatError, "truncated"),
    (renamed, FormatError, r"missing: .*up_proj.*; unexpected: .*un_proj"),
    (of_class("MambaForCausalLM"), UnsupportedModel, "MambaForCausalLM.*LlamaForCausalLM"),
    (without_config, ModelNotFound, r"no config\.json"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_refused_before_anything_is_written(
    change: Callable[[Path], None], error: type[EdgeInferError], message: str, tmp_path: Path
) -> None:
    folder, _ = checkpoint(tmp_path / "model", "Llama", BASE)
    change(folder)
    with pytest.raises(error, match=message):
        export(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_no_graph_of_fixed_shapes_for_experts(tmp_path: Path) -> None:
    name, config = CASES["qwen3moe"]
    folder, _ = checkpoint(tmp_path / "model", name, config)
    with pytest.raises(UnsupportedModel, match=r"variant npu.*experts"):
        export(folder, tmp_path / "out", variant=("cpu", "npu"))
    assert not (tmp_path / "out").exists()


def test_more_than_half_precision_holds(tmp_path: Path) -> None:
    torch, _ = torch_and_transformers()
    folder, model = checkpoint(tmp_path / "model", "Llama", BASE)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = 1e5
    model.save_pretrained(folder)
    with pytest.raises(FormatError, match=r"blk\.1\.ffn_up\.weight has values up to 1e\+05.*--quant bf16"):
        export(folder, tmp_path / "out", quant="f16")
    assert not (tmp_path / "out").exists()
    export(folder, tmp_path / "out", quant="bf16")


def test_an_older_package_stays_until_it_is_to_be_replaced(tmp_path: Path) -> None:
    folder, _ = checkpoint(tmp_path / "model", "Llama", BASE)
    export(folder, tmp_path / "out")
    with pytest.raises(UsageError, match="--force"):
        export(folder, tmp_path / "out", quant="int8")
    assert export(folder, tmp_path / "out", quant="int8", force=True).mode == "int8"
