"""What ONNX Runtime GenAI wants beside a graph: its config, and the tokenizer in Hugging Face's form. Knows no tensor.

Keys of the config are those of GenAI 0.18. Sizes and token ids come from the source's metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.to_onnx.tokenizer_json import tokenizer_files
from edgeinfer.gguf import GGUFFile, Metadata

__all__ = ["write_genai"]

_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "olmo2": "olmo",
    "granite": "granite",
}
_ENDS = ("eos", "eot", "eom")
_END_TEXTS = frozenset(
    ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>", "</s>")
)
_CONTROL = 3
_NO_TOKEN = (0xFFFFFFFF, -1)
_MAX_LENGTH = 4096
_ERRORS_ONLY = 3  # a log level: an input with a default, such as ours, is warned about at each start otherwise


def write_genai(file: GGUFFile, decoder: Decoder, folder: Path, graph: str) -> list[str]:
    """Write the files for a package's ``graph`` into its folder; answers their names. Without a tokenizer's files where
    its pre-tokenizer has no known form in them."""
    made = tokenizer_files(file.metadata)
    if decoder.bidirectional is None:  # GenAI runs what generates
        made["genai_config.json"] = _config(file.metadata, decoder, graph)
    for name, content in made.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return list(made)


def _config(meta: Metadata, decoder: Decoder, graph: str) -> dict[str, Any]:
    sizes = decoder.stored_sizes()
    n_ctx = sizes.n_ctx_short or sizes.n_ctx_train  # GenAI knows of no other tables for more
    ends = end_tokens(meta)
    model: dict[str, Any] = {
        "type": _TYPES[decoder.architecture],
        "vocab_size": sizes.n_vocab,
        "context_length": n_ctx,
        "eos_token_id": ends if len(ends) != 1 else ends[0],
        "decoder": {
            "session_options": {
                "log_id": "onnxruntime-genai",
                "log_severity_level": _ERRORS_ONLY,
                "provider_options": [],
            },
            "filename": graph,
            "head_size": sizes.head_dim,
            "hidden_size": sizes.n_embd,
            "num_attention_heads": sizes.n_heads,
            "num_hidden_layers": sizes.n_layers,
            "num_key_value_heads": sizes.n_kv_heads,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        },
    }
    for name, key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        token = meta.integer(f"tokenizer.ggml.{key}_token_id", -1)
        if token not in _NO_TOKEN:
            model[name] = token
    model.setdefault("pad_token_id", ends[0] if ends else 0)
    search = {
        "do_sample": False,
        "max_length": min(n_ctx, _MAX_LENGTH),
        "past_present_share_buffer": True,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
    }
    return {"model": model, "search": search}


def end_tokens(meta: Metadata) -> list[int]:
    """The tokens that end an answer: those that the file names, and control tokens known for it."""
    named = [meta.integer(f"tokenizer.ggml.{end}_token_id", -1) for end in _ENDS]
    found = dict.fromkeys(token for token in named if token not in _NO_TOKEN)
    if "tokenizer.ggml.tokens" in meta and "tokenizer.ggml.token_type" in meta:
        kinds = meta.numbers("tokenizer.ggml.token_type")
        texts = meta.strings("tokenizer.ggml.tokens")
        found |= dict.fromkeys(
            int(token) for token in (kinds == _CONTROL).nonzero()[0] if texts[int(token)] in _END_TEXTS
        )
    return list(found)
