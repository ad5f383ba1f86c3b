"""Configurations off the beaten path: what comes of them is what transformers computes, or they are refused by name.
Each was converted silently wrong, or into a file that llama.cpp does not load, when random checkpoints were tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_cases import BASE, GEMMA, LONG
from hostile_checkpoints import CONFIG, write
from onnx_packages import export
from tiny_checkpoints import checkpoint, engine_logits, exact_logits, their_logits, token_ids

from edgeinfer import gguf
from edgeinfer.converters.huggingface.architectures import describe
from edgeinfer.converters.huggingface.checkpoint import open_checkpoint
from edgeinfer.converters.to_gguf import Options, convert
from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine
from edgeinfer.errors import UnsupportedModel

WINDOW = 24
FULL = ["full_attention"] * 3
RIGHT: dict[str, tuple[str, dict[str, Any], int]] = {
    "olmo2-tied": ("Olmo2", {**BASE, "tie_word_embeddings": True}, 64),
    "gemma2-no-window": ("Gemma2", {**GEMMA, "layer_types": FULL}, 64),
    "mistral-window": ("Mistral", {**BASE, "sliding_window": WINDOW}, WINDOW),
    "qwen2-window": (
        "Qwen2",
        {**BASE, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        WINDOW,
    ),
    # llama.cpp rounds a context up to 256, which is beyond the original one.
    "phi3-never-long": (
        "Phi3",
        {**BASE, "max_position_embeddings": 100, "rope_parameters": LONG, "original_max_position_embeddings": 100},
        64,
    ),
    "phi3-factor": (
        "Phi3",
        {**BASE, "rope_parameters": {**LONG, "factor": 3.0}, "original_max_position_embeddings": 32},
        64,
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, config, n = RIGHT[case]
    folder, model = checkpoint(tmp_path / "model", name, config)
    made = convert(folder, tmp_path / "model.gguf", Options("F32"))
    n_ctx = gguf.dimensions(gguf.read(made.written.path)).n_ctx_train
    assert n_ctx == (n if n == WINDOW else config["max_position_embeddings"])
    assert any(f"context is {WINDOW} tokens" in note for note in made.notes) == (n == WINDOW)
    ids = token_ids(n=n)
    theirs = their_logits(model, ids)
    bound = 5e-3 if case.startswith("gemma") else 1e-4
    assert float(np.abs(exact_logits(made.written.path, ids, monkeypatch) - theirs).max()) < bound
    export(folder, tmp_path / "onnx", quant="f32")
    ours, _ = engine_logits(tmp_path / "onnx", ids, kernels=False, n_ctx=n)
    assert float(np.abs(ours - theirs).max()) < 1e-4


@pytest.mark.parametrize(("n_ctx", "n_seqs"), [(64, 1), (64, 2), (96, 1)])
def test_the_context_of_a_sequence_chooses_the_rope(n_ctx: int, n_seqs: int, tmp_path: Path) -> None:
    """And neither what llama.cpp rounds it to nor how many sequences share the cells."""
    config = {**BASE, "rope_parameters": LONG, "original_max_position_embeddings": 64}
    folder, model = checkpoint(tmp_path / "model", "Phi3", config)
    path = convert(folder, tmp_path / "model.gguf", Options("F32")).written.path
    ids = token_ids(n=n_ctx)
    theirs = their_logits(model, ids)
    engine = LlamaCppEngine(path, EngineConfig(n_ctx=n_ctx, n_seq_max=n_seqs, n_threads=2, n_threads_batch=2))
    try:
        ours = engine.forward([Slice(n_seqs - 1, ids, 0, len(ids))])
        assert float(np.abs(ours - theirs).max()) < 3e-3 * float(np.abs(theirs).max())
    finally:
        engine.close()


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "qwen2-llama3": ("Qwen2ForCausalLM", {"rope_scaling": LLAMA3}, "rope_type 'llama3' is none"),
    "olmo2-llama3": ("Olmo2ForCausalLM", {"rope_parameters": LLAMA3}, "rope_type 'llama3' is none"),
    "llama-longrope": ("LlamaForCausalLM", {"rope_scaling": {"type": "longrope"}}, "rope_type 'longrope' is none"),
    "llama-betas": ("LlamaForCausalLM", {"rope_scaling": {**YARN, "beta_fast": 16}}, "beta_fast 16 and beta_slow 1"),
    "llama-partial": (
        "LlamaForCausalLM",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "8 of 16 elements of a head are rotated",
    ),
    "qwen2-partial": ("Qwen2ForCausalLM", {"partial_rotary_factor": 0.5}, "8 of 16 elements of a head are rotated"),
    "both-forms": (
        "LlamaForCausalLM",
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "mystery"}},
        "rope_type 'mystery'",
    ),
    "gemma3-magnitude": (
        "Gemma3ForCausalLM",
        {"rope_scaling": {**YARN, "attention_factor": 0.8}, "head_dim": 16, "num_key_value_heads": 1},
        "yarn has an attention factor of its own",
    ),
    "nomic-stretched": (
        "NomicBertModel",
        {"hidden_act": "silu", "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        "rope_type is 'linear'",
    ),
}
NEAR_MISSES = [
    *("Qwen2MoeForCausalLM", "Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen2_5_VLForConditionalGeneration"),
    *("Gemma3nForConditionalGeneration", "Gemma3TextModel", "GemmaForCausalLM", "Llama4ForCausalLM"),
    *("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration", "DeepseekV3ForCausalLM", "Olmo3ForCausalLM"),
    *("PhimoeForCausalLM", "PhiForCausalLM", "GraniteMoeForCausalLM", "BertForSequenceClassification"),
    *("LlamaForSequenceClassification", "SmolLM3ForCausalLM", "ModernBertModel"),
]
REFUSED |= {name: (name, {}, f"is of class '{name}'; convertible are") for name in NEAR_MISSES}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str, tmp_path: Path) -> None:
    name, change, message = REFUSED[case]
    folder = write(tmp_path / "model", config={**CONFIG, "architectures": [name], **change})
    with pytest.raises(UnsupportedModel, match=message):
        describe(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("name", "change", "n_ctx"),
    [
        ("MistralForCausalLM", {"sliding_window": 16}, 16),
        ("MistralForCausalLM", {"sliding_window": None}, 64),
        ("MistralForCausalLM", {"max_position_embeddings": 8192}, 4096),
        ("LlamaForCausalLM", {"sliding_window": 16}, 64),
        ("Qwen2ForCausalLM", {"sliding_window": 16}, 64),
        ("Qwen2ForCausalLM", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}, 64),
        ("Qwen2ForCausalLM", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}, 16),
        ("Qwen3ForCausalLM", {"sliding_window": 16, "use_sliding_window": True, "layer_types": FULL[:1]}, 64),
    ],
)
def test_a_context_ends_where_a_window_that_is_not_kept_begins(
    name: str, change: dict[str, Any], n_ctx: int, tmp_path: Path
) -> None:
    folder = write(tmp_path / "model", config={**CONFIG, "architectures": [name], **change})
    assert describe(open_checkpoint(folder)).keys["context_length"] == n_ctx


def test_what_a_configuration_leaves_out_is_as_its_class_has_it(tmp_path: Path) -> None:
    """Ropes of a mixture turn slower, and contexts before a stretch are the whole where nothing is said."""
    mixtral = {**CONFIG, "architectures": ["MixtralForCausalLM"], "num_local_experts": 2}
    assert describe(open_checkpoint(write(tmp_path / "a", config=mixtral))).keys["rope.freq_base"] == 1e6
    yarn = {**CONFIG, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}
    keys = describe(open_checkpoint(write(tmp_path / "b", config=yarn))).keys
    assert keys["rope.scaling.original_context_length"] == 64
    (tmp_path / "b" / "config.json").write_text(json.dumps({**yarn, "original_max_position_embeddings": 48}))
    assert describe(open_checkpoint(tmp_path / "b")).keys["rope.scaling.original_context_length"] == 48
