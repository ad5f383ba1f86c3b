"""Small models that run: llama's architecture with random weights of any tensor type, with experts or without, and LoRA
adapters. Their text means nothing; their logits are those of any other model, in milliseconds."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf_files import F32, STRING, U32, File, Tensor, model

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q4_K": 12}
TYPES |= {"Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30}

# type -> bytes of a block, and the halves in it: where, and what makes weights of a deviation of 1
_HALVES: dict[str, tuple[int, tuple[tuple[int, float], ...]]] = {
    "Q4_0": (18, ((0, 1 / 4.6),)),
    "Q4_1": (20, ((0, 1 / 4.6), (2, -7.5 / 4.6))),
    "Q5_0": (22, ((0, 1 / 9.2),)),
    "Q5_1": (24, ((0, 1 / 9.2), (2, -15.5 / 9.2))),
    "Q8_0": (34, ((0, 1 / 74),)),
    "Q2_K": (84, ((80, 1 / 12), (82, 1.5 / 12))),
    "Q4_K": (144, ((0, 1 / 250), (2, 7.5 / 250))),
    "Q5_K": (176, ((0, 1 / 500), (2, 15.5 / 500))),
    "Q6_K": (210, ((208, 1 / 1350),)),
    "IQ4_NL": (18, ((0, 1 / 70),)),
    "IQ4_XS": (136, ((0, 1 / 1300),)),
}


def random_weights(type_name: str, shape: tuple[int, ...], rng: np.random.Generator) -> bytes:
    """Bytes of a tensor whose weights spread by 1 / sqrt(row length): sizes of activations stay what they are."""
    spread, count = shape[0] ** -0.5, int(np.prod(shape))
    if type_name in ("F32", "F16", "BF16"):
        values: npt.NDArray[Any] = (rng.standard_normal(count) * spread).astype(np.float32)
        if type_name == "BF16":
            values = values.view(np.uint16)[1::2]  # little-endian: the upper half
        data: bytes = values.astype(np.float16).tobytes() if type_name == "F16" else values.tobytes()
        return data
    n_bytes, halves = _HALVES[type_name]
    size = 256 if type_name.endswith(("_K", "_XS")) else 32
    blocks = rng.integers(0, 256, (count // size, n_bytes), np.uint8)
    for at, unit in halves:
        blocks[:, at : at + 2] = np.frombuffer(struct.pack("<e", unit * spread), np.uint8)
    packed: bytes = blocks.tobytes()
    return packed


def runnable(
    types: Mapping[str, str] | None = None,
    *,
    default: str = "Q8_0",
    n_embd: int = 256,
    n_ff: int = 512,
    n_experts: int = 0,
    seed: int = 0,
) -> File:
    """Two layers, 4 heads of which 2 for keys and values. ``types``: tensor type by the name between ``blk.0.`` and
    ``.weight``, or by the whole name; ``default`` for the rest. ``n_experts``: two of them are used for each token."""
    made = model(n_embd=n_embd, tokenizer="llama")
    made.keys["llama.feed_forward_length"] = (U32, n_ff)
    made.keys["llama.context_length"] = (U32, 2048)
    if n_experts:
        made.keys["llama.expert_count"] = (U32, n_experts)
        made.keys["llama.expert_used_count"] = (U32, 2)
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q": (n_embd, n_embd),
        "attn_k": (n_embd, n_embd // 2),
        "attn_v": (n_embd, n_embd // 2),
        "attn_output": (n_embd, n_embd),
    }
    experts = (n_experts,) if n_experts else ()
    suffix = "_exps" if n_experts else ""
    shapes |= {f"ffn_{name}{suffix}": (n_embd, n_ff, *experts) for name in ("gate", "up")}
    shapes[f"ffn_down{suffix}"] = (n_ff, n_embd, *experts)
    if n_experts:
        shapes["ffn_gate_inp"] = (n_embd, n_experts)
    chosen = {"ffn_gate_inp": "F32", **(types or {})}
    rng = np.random.default_rng(seed)
    n_vocab = 300

    def tensor(name: str, kind: str, shape: tuple[int, ...]) -> Tensor:
        type_name = chosen.get(kind, default)
        return Tensor(name, shape, TYPES[type_name], data=random_weights(type_name, shape, rng))

    def norm(name: str) -> Tensor:
        return Tensor(name, (n_embd,), data=np.ones(n_embd, np.float32).tobytes())

    made.tensors = [
        tensor("token_embd.weight", "token_embd", (n_embd, n_vocab)),
        norm("output_norm.weight"),
        tensor("output.weight", "output", (n_embd, n_vocab)),
    ]
    for layer in range(2):
        made.tensors += [norm(f"blk.{layer}.attn_norm.weight"), norm(f"blk.{layer}.ffn_norm.weight")]
        made.tensors += [tensor(f"blk.{layer}.{kind}.weight", kind, shape) for kind, shape in shapes.items()]
    return made


def lora_adapter(name: str, n_in: int, n_out: int, *, size: float = 1.0, seed: int = 5) -> File:
    """An adapter of rank 1 for the matrix ``name`` (without ``.weight``) of a llama."""
    rng = np.random.default_rng(seed)

    def part(suffix: str, shape: tuple[int, ...]) -> Tensor:
        values = (rng.standard_normal(shape[::-1]) * size / np.sqrt(max(shape))).astype(np.float32)
        return Tensor(f"{name}.weight.{suffix}", shape, data=values.tobytes())

    keys = {
        "general.type": (STRING, "adapter"),
        "general.architecture": (STRING, "llama"),
        "adapter.type": (STRING, "lora"),
        "adapter.lora.alpha": (F32, 1.0),
    }
    return File(dict(keys), [part("lora_a", (n_in, 1)), part("lora_b", (1, n_out))])
