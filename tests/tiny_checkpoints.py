"""Tiny checkpoints with random weights, made by transformers, each with a tokenizer of its own. What they say means
nothing; what a converter makes of them must say the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

N_POSITIONS = 64
N_VOCAB = 320

Floats = npt.NDArray[np.float32]


def torch_and_transformers() -> tuple[Any, Any]:
    """Both libraries, or the test is skipped where they are not installed."""
    return pytest.importorskip("torch"), pytest.importorskip("transformers")


def byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes in byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def byte_level_json() -> dict[str, Any]:
    """A tokenizer.json of bytes with a few merges, split as GPT-2 splits."""
    vocab = {letter: i for i, letter in enumerate(byte_alphabet())}
    merges = [["t", "h"], ["th", "e"], ["i", "n"], ["Ġ", "the"], ["e", "r"]]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    end = len(vocab)
    special = [{"id": end, "content": "<|endoftext|>", "special": True, "normalized": False}]
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{**entry, "single_word": False, "lstrip": False, "rstrip": False} for entry in special],
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": split,
        "decoder": split,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def wordpiece_json() -> dict[str, Any]:
    """A tokenizer.json of letters, as BERT has it."""
    texts = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    vocab = {
        text: i for i, text in enumerate([*texts, *letters, *("##" + letter for letter in letters if letter.isalnum())])
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in enumerate(texts)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def lively(model: Any, torch: Any, seed: int) -> None:
    """Random weights that every part of the graph shows in: norms that are not 1, biases that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_((0.0 if "bias" in name else weight) + 0.2 * noise)
            else:
                weight.copy_(noise * weight.shape[-1] ** -0.5)


def checkpoint(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    *,
    tokenizer: Callable[[], dict[str, Any]] = byte_level_json,
    seed: int = 0,
    **making: Any,
) -> tuple[Path, Any]:
    """A folder with a checkpoint of the class ``name`` (``Llama`` -> LlamaForCausalLM), and the model itself."""
    torch, transformers = torch_and_transformers()
    prefix = "Gemma3Text" if name == "Gemma3" else name
    made = getattr(transformers, prefix + "Config")(**config)
    decodes = not name.endswith(("Bert", "berta"))
    kind = getattr(transformers, name + ("ForCausalLM" if decodes else "Model"))
    model = kind(made, **making).eval()
    lively(model, torch, seed)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()), encoding="utf-8")
    return folder, model


def token_ids(n_vocab: int = 250, n: int = N_POSITIONS, seed: int = 1) -> npt.NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, n_vocab, n).astype(np.int32)


def their_logits(model: Any, ids: npt.NDArray[np.int32]) -> Floats:
    torch, _ = torch_and_transformers()
    with torch.no_grad():
        answer = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    logits: Floats = answer.float().numpy()
    return logits


def our_logits(path: Path, ids: npt.NDArray[np.int32], *, kernels: bool = True) -> Floats:
    """By the engine as users have it, whose attention keeps keys and values in 16 bits."""
    from edgeinfer.engines.base import EngineConfig, Slice
    from edgeinfer.engines.llamacpp import LlamaCppEngine

    config = EngineConfig(n_ctx=len(ids), n_threads=2, n_threads_batch=2, kernels=kernels)
    engine = LlamaCppEngine(path, config)
    try:
        logits: Floats = engine.forward([Slice(0, ids, 0, len(ids))]).copy()
        return logits
    finally:
        engine.close()


def engine_logits(
    folder: Path, ids: npt.NDArray[np.int32], *, kernels: bool = True, step: int = 64, n_ctx: int = 64
) -> tuple[Floats, tuple[str, ...]]:
    """(logits of all tokens, the engine's notices), computed ``step`` tokens at a time."""
    from edgeinfer.engines.base import EngineConfig, Slice
    from edgeinfer.engines.ort_open import open_onnx

    config = EngineConfig(n_ctx=n_ctx, n_threads=2, n_threads_batch=2, kernels=kernels)
    engine = open_onnx(folder, config)
    try:
        rows = []
        for at in range(0, len(ids), step):
            part = ids[at : at + step]
            rows.append(engine.forward([Slice(0, part, at, len(part))]).copy())
        return np.concatenate(rows), engine.notices
    finally:
        engine.close()


def exact_logits(path: Path, ids: npt.NDArray[np.int32], monkeypatch: pytest.MonkeyPatch) -> Floats:
    """The same with all of attention in single precision: what is off is then the file."""
    import llama_cpp

    from edgeinfer.engines import llamacpp

    params = llamacpp.LlamaCppEngine._context_params

    def exact(self: Any, config: Any) -> Any:
        made = params(self, config)
        made.type_k = made.type_v = llama_cpp.GGML_TYPE_F32
        made.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return made

    with monkeypatch.context() as patch:
        patch.setattr(llamacpp.LlamaCppEngine, "_context_params", exact)
        return our_logits(path, ids, kernels=False)
