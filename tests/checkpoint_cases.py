"""Every kind of decoder that is converted, as configurations of transformers: (class, settings) by name."""

from __future__ import annotations

from typing import Any

from tiny_checkpoints import N_VOCAB

__all__ = ["BASE", "CASES"]

BASE: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": N_VOCAB,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 261,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [1.5 + i for i in range(8)],
}
PARTIAL = {"num_attention_heads": 3, "num_key_value_heads": 1, "partial_rotary_factor": 0.75}
ODD = {"hidden_size": 100, "intermediate_size": 77, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 20}
GEMMA = {**BASE, "head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 16}
EXPERTS = {**BASE, "head_dim": 16, "num_experts_per_tok": 2}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", BASE),
    "llama-tied": ("Llama", {**BASE, "tie_word_embeddings": True, "num_key_value_heads": 6}),
    "llama-3": ("Llama", {**BASE, "rope_parameters": LLAMA3}),
    "llama-linear": ("Llama", {**BASE, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "llama-yarn": ("Llama", {**BASE, "rope_parameters": YARN}),
    "llama-biases": ("Llama", {**BASE, "attention_bias": True, "mlp_bias": True}),
    "llama-odd": (
        "Llama",
        {
            **BASE,
            "hidden_size": 100,
            "intermediate_size": 77,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "head_dim": 20,
        },
    ),
    "mistral": ("Mistral", {**BASE, "head_dim": 24}),
    "mixtral": ("Mixtral", {**BASE, "num_local_experts": 4}),
    "qwen2": ("Qwen2", BASE),
    "qwen2-tied": ("Qwen2", {**BASE, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**BASE, "head_dim": 32}),
    "qwen3moe": ("Qwen3Moe", {**EXPERTS, "num_experts": 6, "moe_intermediate_size": 64, "norm_topk_prob": True}),
    "gemma2": ("Gemma2", {**GEMMA, "final_logit_softcapping": 20.0}),
    "gemma2-uncapped": ("Gemma2", {**GEMMA, "final_logit_softcapping": None, "attn_logit_softcapping": None}),
    "gemma3": ("Gemma3", {**GEMMA, "num_hidden_layers": 7}),
    "gemma3-pattern": (
        "Gemma3",
        {**GEMMA, "layer_types": [*["sliding_attention"] * 2, "full_attention"]},
    ),
    "phi3": ("Phi3", BASE),
    "phi3-partial": (
        "Phi3",
        {**BASE, **PARTIAL},
    ),
    # llama.cpp takes the long factors for a context beyond the original one, transformers for a text beyond it.
    "phi3-short": (
        "Phi3",
        {**BASE, "max_position_embeddings": 1024, "rope_parameters": LONG, "original_max_position_embeddings": 256},
    ),
    "phi3-long": ("Phi3", {**BASE, "rope_parameters": LONG, "original_max_position_embeddings": 32}),
    "olmo2": ("Olmo2", BASE),
    "granite": (
        "Granite",
        {
            **BASE,
            "attention_multiplier": 0.2,
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 3.0,
        },
    ),
}
