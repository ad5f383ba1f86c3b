"""A small checkpoint made byte by byte, sound until a test changes something."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from tiny_checkpoints import byte_level_json

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 270,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (270, 32),
    "model.norm.weight": (32,),
    "model.layers.0.input_layernorm.weight": (32,),
    "model.layers.0.post_attention_layernorm.weight": (32,),
    **{f"model.layers.0.self_attn.{which}_proj.weight": (32, 32) for which in "qkvo"},
    "model.layers.0.mlp.gate_proj.weight": (48, 32),
    "model.layers.0.mlp.up_proj.weight": (48, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 48),
}


def safetensors(shapes: dict[str, tuple[int, ...]], *, dtype: str = "F32", fill: float = 0.5) -> bytes:
    header, data = {}, b""
    for name, shape in shapes.items():
        values = np.full(shape, fill, {"F32": "<f4", "F16": "<f2", "I8": "i1"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write(folder: Path, *, config: dict[str, Any] | None = None, weights: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps(byte_level_json()))
    (folder / "model.safetensors").write_bytes(weights if weights is not None else safetensors(SHAPES))
    return folder
