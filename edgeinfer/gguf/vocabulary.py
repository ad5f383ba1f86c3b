"""The vocabulary inside a GGUF model, checked for what would stop llama.cpp's tokenizer. Turns no text into tokens."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np

from edgeinfer.errors import FormatError
from edgeinfer.gguf.formats import ValueType
from edgeinfer.gguf.header import shown
from edgeinfer.gguf.reader import GGUFFile

__all__ = ["check_vocabulary", "vocabulary_size"]

_TOKENS = "tokenizer.ggml.tokens"
_TYPES = "tokenizer.ggml.token_type"
_SCORES = "tokenizer.ggml.scores"
_MERGES = "tokenizer.ggml.merges"
_NO_VOCABULARY = ("no_vocab", "none")
_BYTE_TYPE = 6
_NO_TOKEN = 0xFFFFFFFF
_MAX_TEMPLATE = 1 << 20
_BYTE_TOKEN = re.compile(rb"<0x([0-9A-Fa-f]{2})>")
_STORED_BYTE_TOKEN = re.compile(rb"\x06\0\0\0\0\0\0\0<0x([0-9A-Fa-f]{2})>")
_STORED_SINGLE = re.compile(rb"\x01\0\0\0\0\0\0\0([\x00-\xff])", re.DOTALL)


def vocabulary_size(file: GGUFFile) -> int:
    """The number of tokens, at least 1. Raises `FormatError`."""
    meta = file.metadata
    if meta.text("tokenizer.ggml.model") in _NO_VOCABULARY:
        size = meta.integer(f"{file.architecture}.vocab_size")
    else:
        size = meta.count(_TOKENS)
    if size < 1:
        raise FormatError(f"{file.path}: the vocabulary is empty; the file is damaged or holds no text model")
    return size


def check_vocabulary(file: GGUFFile) -> None:
    """Prove that every table has the right type and length, special ids exist, texts are unique and byte tokens are
    bytes. Raises `FormatError`."""
    meta, n_vocab = file.metadata, vocabulary_size(file)
    kind = meta.text("tokenizer.ggml.model")
    if kind in _NO_VOCABULARY:
        return
    for key, elements in (
        (_TOKENS, (ValueType.STRING,)),
        (_MERGES, (ValueType.STRING,)),
        (_TYPES, (ValueType.INT32,)),
        (_SCORES, (ValueType.FLOAT32, ValueType.INT32)),
    ):
        if key in meta and meta.element_type(key) not in elements:
            raise FormatError(f"{file.path}: {key} must be an array of {elements[0].name.lower()}")
    for key in (_TYPES, _SCORES):
        if key in meta and meta.count(key) != n_vocab:
            raise FormatError(f"{file.path}: {key} has {meta.count(key)} entries for {n_vocab} tokens")
    if _SCORES in meta and not np.all(np.isfinite(meta.numbers(_SCORES).astype(np.float64))):
        raise FormatError(f"{file.path}: {_SCORES} holds a score that is not a finite number")
    _check_special_ids(file, n_vocab)
    _check_unique(file, n_vocab)
    _check_bytes(file, kind)
    if "tokenizer.chat_template" in meta and len(meta.text("tokenizer.chat_template")) > _MAX_TEMPLATE:
        raise FormatError(f"{file.path}: tokenizer.chat_template is longer than {_MAX_TEMPLATE} characters")


def _check_special_ids(file: GGUFFile, n_vocab: int) -> None:
    for key in file.metadata:
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            token = file.metadata.integer(key)
            if not 0 <= token < n_vocab and token not in (_NO_TOKEN, -1):
                raise FormatError(f"{file.path}: {key} is {token}, but there are only {n_vocab} tokens")


def _check_unique(file: GGUFFile, n_vocab: int) -> None:
    """Two tokens of one text end llama.cpp by an assertion. It renames empty ones itself."""
    texts = [text or b"[EMPTY_%d]" % index for index, text in enumerate(file.metadata.raw_strings(_TOKENS))]
    if len(set(texts)) == n_vocab:
        return
    seen: set[bytes] = set()
    for index, text in enumerate(texts):
        if text in seen:
            raise FormatError(f"{file.path}: token {index}, {_name(text)}, is in the vocabulary twice")
        seen.add(text)


def _check_bytes(file: GGUFFile, kind: str) -> None:
    """Byte tokens are read as ``<0xHH>``. A SentencePiece vocabulary without a token for every byte throws at the first
    character that it does not know."""
    meta = file.metadata
    byte_ids = np.flatnonzero(meta.numbers(_TYPES) == _BYTE_TYPE) if _TYPES in meta else np.empty(0, np.int64)
    if byte_ids.size and kind == "bert":
        raise FormatError(f"{file.path}: token {byte_ids[0]} is a byte, which a BERT vocabulary cannot have")
    if byte_ids.size and kind != "rwkv":
        texts = list(islice(meta.raw_strings(_TOKENS), int(byte_ids[-1]) + 1))
        for index in byte_ids.tolist():
            if not _BYTE_TOKEN.fullmatch(texts[index]):
                raise FormatError(
                    f"{file.path}: token {index}, {_name(texts[index])}, is marked as a byte, but is not <0xHH>"
                )
    if kind == "llama":
        span = meta.raw_span(_TOKENS)
        known = {int(digits, 16) for digits in _STORED_BYTE_TOKEN.findall(span)}
        known |= {single[0] for single in _STORED_SINGLE.findall(span)}
        missing = sorted(set(range(256)) - known)
        if missing:
            raise FormatError(f"{file.path}: no token stands for byte 0x{missing[0]:02X}, which llama.cpp needs")


def _name(text: bytes) -> str:
    return shown(text.decode("utf-8", "replace"))
