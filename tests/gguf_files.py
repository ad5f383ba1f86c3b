"""Tiny GGUF files, built byte by byte, sound or not. Shares no code with the reader that it tests."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
Q4_0, Q8_0, Q4_K = 2, 8, 12
# type -> (elements in a block, bytes of a block)
_BLOCKS = {0: (1, 4), 1: (1, 2), Q4_0: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), Q8_0: (32, 34), 10: (256, 84)}
_BLOCKS |= {Q4_K: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 24: (1, 1), 26: (1, 4)}
_BLOCKS |= {30: (1, 2)}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, payload: Any) -> bytes:
    """One metadata value without its type: ``payload`` of an ARRAY is (element kind, list)."""
    if kind == STRING:
        return string(payload)
    if kind == ARRAY:
        element, items = payload
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)
    return struct.pack("<" + _CODES[kind], payload)


def pair(key: str | bytes, kind: int, payload: Any) -> bytes:
    return string(key) + struct.pack("<I", kind) + value(kind, payload)


@dataclass
class Tensor:
    """A tensor's record. What is None is worked out; without ``data`` its bytes are zeros."""

    name: str
    shape: tuple[int, ...]
    type: int = 0
    offset: int | None = None
    n_dims: int | None = None
    data: bytes | None = field(default=None, repr=False)

    @property
    def n_bytes(self) -> int:
        size, n_bytes = _BLOCKS.get(self.type, (1, 1))
        count = 1
        for side in self.shape:
            count *= side
        return count // size * n_bytes


@dataclass
class File:
    """A file in the making: change a field, then `pack`. ``raw_keys`` are appended to the pairs as they are."""

    keys: dict[str, tuple[int, Any]] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    version: int = 3
    magic: bytes = b"GGUF"
    alignment: int = 32
    n_keys: int | None = None
    n_tensors: int | None = None
    raw_keys: list[bytes] = field(default_factory=list)
    data_bytes: int | None = None

    def header(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) + len(self.raw_keys) if self.n_keys is None else self.n_keys
        out = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_keys)
        out += b"".join(pair(key, *stored) for key, stored in self.keys.items()) + b"".join(self.raw_keys)
        offset = 0
        for tensor in self.tensors:
            n_dims = len(tensor.shape) if tensor.n_dims is None else tensor.n_dims
            at = offset if tensor.offset is None else tensor.offset
            out += string(tensor.name) + struct.pack("<I", n_dims)
            out += b"".join(struct.pack("<Q", side) for side in tensor.shape) + struct.pack("<IQ", tensor.type, at)
            offset = at + min(tensor.n_bytes, 1 << 24)
            offset += -offset % self.alignment
        self._end = offset
        return out

    def pack(self) -> bytes:
        out = self.header()
        out += bytes(-len(out) % self.alignment)
        if any(tensor.data is not None for tensor in self.tensors):
            blobs = (tensor.data or bytes(tensor.n_bytes) for tensor in self.tensors)
            return out + b"".join(blob + bytes(-len(blob) % self.alignment) for blob in blobs)
        return out + bytes(self._end if self.data_bytes is None else self.data_bytes)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.pack())
        return path


def model(n_vocab: int = 300, n_embd: int = 64, n_layers: int = 2, tokenizer: str = "gpt2") -> File:
    """A whole small llama, as far as its header goes: 4 heads, 2 of them for keys and values."""
    tokens = [f"t{i}" for i in range(n_vocab)]
    types = [1] * n_vocab
    if tokenizer == "llama":
        tokens[:256] = [f"<0x{i:02X}>" for i in range(256)]
        types[:256] = [6] * 256
    keys: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "llama"),
        "general.license": (STRING, "mit"),
        "llama.block_count": (U32, n_layers),
        "llama.context_length": (U32, 512),
        "llama.embedding_length": (U32, n_embd),
        "llama.feed_forward_length": (U32, 2 * n_embd),
        "llama.attention.head_count": (U32, 4),
        "llama.attention.head_count_kv": (U32, 2),
        "llama.rope.dimension_count": (U32, n_embd // 4),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "tokenizer.ggml.model": (STRING, tokenizer),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, types)),
        "tokenizer.ggml.bos_token_id": (U32, 1),
        "tokenizer.ggml.eos_token_id": (U32, 2),
        "tokenizer.chat_template": (STRING, "{{ messages }}"),
    }
    if tokenizer == "gpt2":
        keys["tokenizer.ggml.merges"] = (ARRAY, (STRING, ["t 1", "t 2"]))
    else:
        keys["tokenizer.ggml.scores"] = (ARRAY, (F32, [0.0] * n_vocab))
    tensors = [Tensor("token_embd.weight", (n_embd, n_vocab), Q8_0), Tensor("output_norm.weight", (n_embd,))]
    for layer in range(n_layers):
        tensors += [
            Tensor(f"blk.{layer}.attn_norm.weight", (n_embd,)),
            Tensor(f"blk.{layer}.attn_q.weight", (n_embd, n_embd), Q4_0),
            Tensor(f"blk.{layer}.attn_k.weight", (n_embd, n_embd // 2), Q8_0),
            Tensor(f"blk.{layer}.ffn_up.weight", (n_embd, 2 * n_embd), Q4_0),
        ]
    return File(keys, tensors)
