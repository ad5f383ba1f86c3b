"""Each architecture: a tiny checkpoint made by transformers, converted, says the same as in transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_cases import BASE, CASES
from tiny_checkpoints import (
    checkpoint,
    exact_logits,
    our_logits,
    their_logits,
    token_ids,
    torch_and_transformers,
)

from edgeinfer.converters.to_gguf import Options, convert


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, config = CASES[case]
    folder, model = checkpoint(tmp_path / "model", name, config)
    made = convert(folder, tmp_path / "model.gguf", Options("F32"))
    assert made.relative_error == 0
    ids = token_ids()
    theirs = their_logits(model, ids)
    assert float(theirs.std()) > 0.1
    # llama.cpp looks GELU up in a table of halves.
    bound = 5e-3 if case.startswith("gemma") else 1e-4
    assert float(np.abs(exact_logits(made.written.path, ids, monkeypatch) - theirs).max()) < bound
    for kernels in (True, False):
        ours = our_logits(made.written.path, ids, kernels=kernels)
        assert float(np.abs(ours - theirs).max()) < 2e-3 * float(np.abs(theirs).max())


@pytest.mark.parametrize("quant", ["F16", "BF16", "Q8_0"])
def test_fewer_bits_are_near(quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = checkpoint(tmp_path / "model", "Llama", {**BASE, "tie_word_embeddings": True})
    made = convert(folder, tmp_path / "model.gguf", Options(quant))
    assert made.relative_error is not None
    assert 1e-5 < made.relative_error < 8e-3
    ids = token_ids()
    theirs = their_logits(model, ids)
    off = np.abs(exact_logits(made.written.path, ids, monkeypatch) - theirs).max() / np.abs(theirs).max()
    assert off < {"F16": 2e-3, "BF16": 2e-2, "Q8_0": 8e-2}[quant]


def test_parts_of_a_checkpoint_and_stored_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files with an index, and weights in bfloat16, which F32 holds exactly."""
    torch, transformers = torch_and_transformers()
    folder, model = checkpoint(tmp_path / "model", "Qwen2", BASE)
    (folder / "model.safetensors").unlink()
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    made = convert(folder, tmp_path / "model.gguf", Options("F32"))
    ids = token_ids()
    theirs = their_logits(transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32), ids)
    assert float(np.abs(exact_logits(made.written.path, ids, monkeypatch) - theirs).max()) < 1e-4
