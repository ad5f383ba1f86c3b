"""GGUF files made to hurt: each must end in one of our errors, at once and in little memory."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I32,
    Q4_0,
    Q4_K,
    STRING,
    U8,
    U32,
    U64,
    File,
    Tensor,
    model,
    pair,
    string,
)

from edgeinfer import gguf
from edgeinfer.errors import EdgeInferError, FormatError, UnsupportedModel, UnsupportedQuant

HUGE = 2**63 - 1
ALL = 2**64 - 1
Build = Callable[[], bytes]


def keys(**changes: Any) -> Build:
    """A small model with some keys changed: ``block_count=(U32, 0)``; None removes one. ``__`` stands for a dot."""

    def build() -> bytes:
        made = model(tokenizer=changes.get("tokenizer", "gpt2"))
        for name, stored in changes.items():
            if name == "tokenizer":
                continue
            key = name.replace("__", ".")
            key = key if key.startswith(("general.", "tokenizer.", "split.")) else f"llama.{key}"
            made.keys.pop(key, None)
            if stored is not None:
                made.keys[key] = stored
        return made.pack()

    return build


def made(**fields: Any) -> Build:
    """A file of these fields."""
    return lambda: File(**fields).pack()


def with_tensor(tensor: Tensor, replace: str | None = None) -> Build:
    def build() -> bytes:
        file = model()
        file.tensors = [other for other in file.tensors if other.name != replace] + [tensor]
        return file.pack()

    return build


def vocabulary(change: Callable[[list[str], list[int]], None], tokenizer: str = "gpt2") -> Build:
    def build() -> bytes:
        file = model(tokenizer=tokenizer)
        change(file.keys["tokenizer.ggml.tokens"][1][1], file.keys["tokenizer.ggml.token_type"][1][1])
        return file.pack()

    return build


def head(n_tensors: int = 0, n_keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)


def key_bytes(kind: int, rest: bytes) -> Build:
    """A file with one key of a given type, and whatever follows."""
    return lambda: head(n_keys=1) + string("k") + struct.pack("<I", kind) + rest


def array(element: int, count: int, rest: bytes = b"") -> Build:
    return key_bytes(ARRAY, struct.pack("<IQ", element, count) + rest)


def cut(n_bytes: int) -> Build:
    return lambda: model().pack()[:n_bytes]


def _same_token(tokens: list[str], _types: list[int]) -> None:
    tokens[7] = tokens[3]


def _bad_byte(tokens: list[str], types: list[int]) -> None:
    tokens[5], types[5] = "<0x-1>", 6


def _short_byte(tokens: list[str], types: list[int]) -> None:
    tokens[5], types[5] = "<", 6


def _no_byte(tokens: list[str], types: list[int]) -> None:
    tokens[65], types[65] = "letter", 1


HOSTILE: dict[str, Build] = {
    # ---- not GGUF at all
    "empty": lambda: b"",
    "one byte": lambda: b"G",
    "magic only": lambda: b"GGUF",
    "zip": lambda: b"PK\x03\x04" + bytes(40),
    "pickle": lambda: b"\x80\x02}q\x00." + bytes(40),
    "web page": lambda: b"<!DOCTYPE html><title>404</title>",
    "lfs pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "safetensors": lambda: struct.pack("<Q", 2) + b"{}" + bytes(40),
    "noise": lambda: random.Random(1).randbytes(4096),
    # ---- the first 24 bytes
    "version 0": made(version=0),
    "version 1": made(version=1),
    "version 4": made(version=4),
    "big endian": lambda: b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "cut in the counts": lambda: head()[:17],
    "too many tensors": lambda: head(n_tensors=ALL) + bytes(64),
    "a million tensors in 64 bytes": lambda: head(n_tensors=1 << 20) + bytes(64),
    "too many keys": lambda: head(n_keys=ALL) + bytes(64),
    "65536 keys in 64 bytes": lambda: head(n_keys=1 << 16) + bytes(64),
    "one key claimed, none there": lambda: head(n_keys=1),
    # ---- keys and values
    "43 bytes, endless strings": lambda: (head(n_keys=1) + string("k") + struct.pack("<IIQ", ARRAY, STRING, HUGE))[:43],
    "key of 2^63 bytes": lambda: head(n_keys=1) + struct.pack("<Q", HUGE) + bytes(64),
    "key that wraps the position": lambda: head(n_keys=1) + struct.pack("<Q", ALL - 3) + bytes(64),
    "empty key": lambda: head(n_keys=1) + pair("", U32, 1),
    "key not UTF-8": lambda: head(n_keys=1) + pair(b"\xff\xfe", U32, 1),
    "key twice": lambda: head(n_keys=2) + pair("k", U32, 1) + pair("k", U32, 2),
    "unknown value type": key_bytes(13, bytes(64)),
    "value type 2^32-1": key_bytes(2**32 - 1, bytes(64)),
    "number cut short": key_bytes(U64, b"\1\2\3"),
    "boolean of 2": key_bytes(BOOL, b"\2"),
    "booleans of 2": array(BOOL, 3, b"\0\1\2"),
    "string of 2^64-1": key_bytes(STRING, struct.pack("<Q", ALL) + bytes(64)),
    "string of 17 MiB claimed": key_bytes(STRING, struct.pack("<Q", 17 << 20) + bytes(64)),
    "string one byte too long": key_bytes(STRING, struct.pack("<Q", 65) + bytes(64)),
    "array of 2^64-1 numbers": array(U64, ALL, bytes(64)),
    "array whose bytes wrap": array(F64, 2**61, bytes(64)),
    "array of 2^40 bytes": array(U8, 2**40, bytes(64)),
    "array of a billion strings": array(STRING, 10**9, bytes(64)),
    "array of strings, one too many": array(STRING, 9, bytes(64)),
    "array with a string past the end": array(STRING, 2, string("ok") + struct.pack("<Q", 4096)),
    "array with a string of 2^64-1": array(STRING, 2, struct.pack("<Q", ALL) + bytes(64)),
    "array of arrays": array(ARRAY, 1, struct.pack("<IQ", U8, 1) + b"\0"),
    "arrays 10000 deep": array(ARRAY, 1, struct.pack("<IQ", ARRAY, 1) * 10000),
    "array of an unknown type": array(77, 1, bytes(64)),
    # ---- alignment
    "alignment 0": keys(general__alignment=(U32, 0)),
    "alignment 3": keys(general__alignment=(U32, 3)),
    "alignment 2^31": keys(general__alignment=(U32, 2**31)),
    "alignment as text": keys(general__alignment=(STRING, "32")),
    "alignment of 64 bits": keys(general__alignment=(U64, 32)),
    # ---- tensors
    "tensor without a name": made(tensors=[Tensor("", (4,))]),
    "tensor name of 64 bytes": made(tensors=[Tensor("n" * 64, (4,))]),
    "tensor twice": made(tensors=[Tensor("t", (4,)), Tensor("t", (4,))]),
    "no dimensions": made(tensors=[Tensor("t", (4,), n_dims=0)]),
    "five dimensions": made(tensors=[Tensor("t", (1, 1, 1, 1, 4))]),
    "2^32-1 dimensions": made(tensors=[Tensor("t", (4,), n_dims=2**32 - 1)]),
    "empty side": made(tensors=[Tensor("t", (4, 0))]),
    "shape product wraps to 0": made(tensors=[Tensor("t", (2**32, 2**32))], data_bytes=64),
    "shape product wraps to 4": made(tensors=[Tensor("t", (2**33 + 2, 2**31), 24)], data_bytes=64),
    "exabyte tensor": made(tensors=[Tensor("t", (2**60,))], data_bytes=64),
    "row not of whole blocks": made(tensors=[Tensor("t", (33, 2), Q4_0)], data_bytes=128),
    "row below one block": made(tensors=[Tensor("t", (128, 2), Q4_K)], data_bytes=512),
    "offset past the end": made(tensors=[Tensor("t", (4,), offset=1 << 20)], data_bytes=64),
    "offset that wraps": made(tensors=[Tensor("t", (4,), offset=ALL - 31)], data_bytes=64),
    "offset not aligned": made(tensors=[Tensor("t", (4,), offset=8)], data_bytes=64),
    "tensors overlap": made(tensors=[Tensor("a", (16,), offset=0), Tensor("b", (4,), offset=32)], data_bytes=128),
    "tensors in one place": made(tensors=[Tensor("a", (4,), offset=0), Tensor("b", (4,), offset=0)], data_bytes=128),
    "data cut by one byte": lambda: model().pack()[:-33],
    "tensor type unknown": made(tensors=[Tensor("t", (4,), 999)], data_bytes=64),
    "tensor type withdrawn": made(tensors=[Tensor("t", (4,), 4)], data_bytes=64),
    # ---- truncated models
    **{f"cut after {n_bytes}": cut(n_bytes) for n_bytes in (23, 24, 25, 40, 100, 333, 1000, 2500, 5000)},
    # ---- sizes that lie
    "no architecture": keys(general__architecture=None),
    "architecture is a number": keys(general__architecture=(U32, 1)),
    "architecture with an escape": keys(general__architecture=(STRING, "\x1b[2Jllama")),
    "architecture empty": keys(general__architecture=(STRING, "")),
    "no layers": keys(block_count=(U32, 0)),
    "513 layers": keys(block_count=(U32, 513)),
    "2^32-1 layers": keys(block_count=(U32, 2**32 - 1)),
    "layers as text": keys(block_count=(STRING, "2")),
    "layers as array": keys(block_count=(ARRAY, (U32, [2]))),
    "fewer layers than tensors": keys(block_count=(U32, 1)),
    "width 0": keys(embedding_length=(U32, 0)),
    "width that is not the embedding's": keys(embedding_length=(U32, 128)),
    "context 0": keys(context_length=(U32, 0)),
    "context 2^63": keys(context_length=(U64, HUGE)),
    "no heads": keys(attention__head_count=(U32, 0)),
    "heads missing": keys(attention__head_count=None),
    "heads do not divide": keys(attention__head_count=(U32, 5)),
    "heads negative": keys(attention__head_count=(I32, -4)),
    "kv heads do not divide": keys(attention__head_count_kv=(U32, 3)),
    "more kv heads than heads": keys(attention__head_count_kv=(U32, 8)),
    "heads of three layers": keys(attention__head_count_kv=(ARRAY, (U32, [2, 2, 2]))),
    "heads as an array of float": keys(attention__head_count_kv=(ARRAY, (F32, [2.0, 2.0]))),
    "heads as an array of text": keys(attention__head_count=(ARRAY, (STRING, ["4", "4"]))),
    "head_dim 0": keys(attention__key_length=(U32, 0)),
    "head_dim 2^31": keys(attention__value_length=(U32, 2**31)),
    "rope wider than a head": keys(rope__dimension_count=(U32, 128)),
    "rope odd": keys(rope__dimension_count=(U32, 7)),
    "rope scaling unknown": keys(rope__scaling__type=(STRING, "quartic")),
    "rope base 0": keys(rope__freq_base=(F32, 0.0)),
    "rope base NaN": keys(rope__freq_base=(F32, float("nan"))),
    "epsilon negative": keys(attention__layer_norm_rms_epsilon=(F32, -1.0)),
    "experts 5000": keys(expert_count=(U32, 5000), expert_used_count=(U32, 2)),
    "experts without use": keys(expert_count=(U32, 8)),
    "more experts used than there are": keys(expert_count=(U32, 2), expert_used_count=(U32, 4)),
    "expert groups do not divide": keys(expert_count=(U32, 8), expert_used_count=(U32, 2), expert_group_count=(U32, 3)),
    "more extra layers than layers": keys(nextn_predict_layers=(U32, 9)),
    # ---- vocabularies that lie
    "no tokens": keys(tokenizer__ggml__tokens=None),
    "empty vocabulary": keys(tokenizer__ggml__tokens=(ARRAY, (STRING, []))),
    "tokens are numbers": keys(tokenizer__ggml__tokens=(ARRAY, (I32, [1] * 300))),
    "tokens are one text": keys(tokenizer__ggml__tokens=(STRING, "t")),
    "fewer tokens than rows": keys(tokenizer__ggml__tokens=(ARRAY, (STRING, ["a", "b"]))),
    "types of one byte": keys(tokenizer__ggml__token_type=(ARRAY, (U8, [1] * 300))),
    "types too few": keys(tokenizer__ggml__token_type=(ARRAY, (I32, [1]))),
    "scores too few": keys(tokenizer="llama", tokenizer__ggml__scores=(ARRAY, (F32, [0.0]))),
    "scores of one byte": keys(tokenizer="llama", tokenizer__ggml__scores=(ARRAY, (U8, [0] * 300))),
    "scores NaN": keys(tokenizer="llama", tokenizer__ggml__scores=(ARRAY, (F32, [float("nan")] * 300))),
    "merges are numbers": keys(tokenizer__ggml__merges=(ARRAY, (U32, [1]))),
    "bos past the end": keys(tokenizer__ggml__bos_token_id=(U32, 300)),
    "eos negative": keys(tokenizer__ggml__eos_token_id=(I32, -5)),
    "eot as text": keys(tokenizer__ggml__eot_token_id=(STRING, "2")),
    "two tokens of one text": vocabulary(_same_token),
    "byte token <0x-1>": vocabulary(_bad_byte),
    "byte token too short": vocabulary(_short_byte),
    "no token for byte 0x41": vocabulary(_no_byte, "llama"),
    "template of 2 MiB": keys(tokenizer__chat_template=(STRING, "x" * (2 << 20))),
    # ---- weights that would stop the process
    "norm of Q4_0": with_tensor(Tensor("output_norm.weight", (64,), Q4_0), replace="output_norm.weight"),
    "matrix of int8": with_tensor(Tensor("blk.0.ffn_down.weight", (64, 64), 24)),
    "embedding of another vocabulary": with_tensor(
        Tensor("token_embd.weight", (64, 299), 0), replace="token_embd.weight"
    ),
    "no tensors": lambda: File(model().keys).pack(),
    "layer 10^9": with_tensor(Tensor("blk.1000000000.ffn_down.weight", (64, 64))),
    # ---- splits
    "part 5 of 2": keys(split__no=(U32, 5), split__count=(U32, 2)),
    "part of 60000": keys(split__no=(U32, 0), split__count=(U32, 60000)),
    "part without the others": keys(split__no=(U32, 0), split__count=(U32, 2)),
}


def test_there_are_enough() -> None:
    assert len(HOSTILE) >= 100


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[name]())
    n_bytes = path.stat().st_size
    started = time.perf_counter()
    with pytest.raises((FormatError, UnsupportedModel, UnsupportedQuant)) as refused:
        gguf.read(path)
    assert time.perf_counter() - started < 0.1
    message = str(refused.value)
    assert "hostile.gguf" in message
    assert "\n" not in message
    assert "\x1b" not in message
    assert not message.endswith(".")
    tracemalloc.start()
    try:
        with pytest.raises(EdgeInferError):
            gguf.read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * n_bytes + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
def test_the_model_they_are_made_from_is_sound(tmp_path: Path, tokenizer: str) -> None:
    gguf.read(model(tokenizer=tokenizer).write(tmp_path / "m.gguf"))


INTERESTING = (
    0,
    1,
    2,
    3,
    7,
    12,
    13,
    31,
    127,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    HUGE,
    2**63,
    ALL,
)


def _mutate(data: bytearray, rng: random.Random, n_header: int) -> bytearray:
    """Damage of the kinds that parsers fail on: mostly numbers in the header, replaced by numbers that hurt."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(n_header)
        match rng.randrange(8):
            case 0 | 1 | 2:
                size, code = rng.choice(((8, "<Q"), (4, "<I")))
                mask = 256**size - 1
                data[at : at + size] = struct.pack(code, rng.choice(INTERESTING) & mask)
            case 3:
                data[at] ^= 1 << rng.randrange(8)
            case 4:
                del data[rng.randrange(n_header) :]
            case 5:
                del data[at : at + rng.randrange(1, 64)]
            case 6:
                data[at:at] = data[at : at + rng.randrange(1, 64)]
            case _:
                data[at : at + 16] = rng.randbytes(16)
        n_header = min(n_header, len(data)) or 1
        if not data:
            break
    return data


@pytest.mark.parametrize("seed", range(4))
def test_mutants_end_in_our_errors_or_are_read(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    base = model(
        n_vocab=16 if seed % 2 else 300, n_layers=1, tokenizer="gpt2" if seed < 2 else "llama" if seed == 2 else "gpt2"
    )
    base.tensors = base.tensors[:3]
    whole = base.pack()
    n_header = len(base.header())
    path = tmp_path / "mutant.gguf"
    refused: list[str] = []
    for number in range(1000):
        path.write_bytes(_mutate(bytearray(whole), rng, n_header))
        started = time.perf_counter()
        try:
            gguf.model_info(gguf.read(path))
        except EdgeInferError as error:
            refused.append(str(error))
        except Exception as error:
            raise AssertionError(f"mutant {number} of seed {seed} ended in {error!r}") from error
        assert time.perf_counter() - started < 2, (seed, number)
    assert len(refused) > 200
    assert not any("\n" in message for message in refused)
