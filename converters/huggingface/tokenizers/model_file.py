"""SentencePiece's ``tokenizer.model``, a protocol-buffer message, read without trusting it and without its library.

Of the message (sentencepiece_model.proto) only what a tokenizer is made of is taken: the pieces with their scores and
types, the type of model, and whether a space is put first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgeinfer.errors import FormatError

__all__ = ["Piece", "SentencePieceModel", "read_model"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE, _ADD_DUMMY_PREFIX = 3, 3


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    kind: int


@dataclass(slots=True)
class SentencePieceModel:
    """``kind``: 1 unigram, 2 BPE."""

    pieces: list[Piece] = field(default_factory=list)
    kind: int = 1
    add_dummy_prefix: bool = True


def read_model(data: bytes, where: str) -> SentencePieceModel:
    """Raises `FormatError` for what is no such message."""
    found = SentencePieceModel()
    for number, value in _fields(data, where):
        if number == _PIECES and isinstance(value, bytes):
            found.pieces.append(_piece(value, where))
        elif number == _TRAINER and isinstance(value, bytes):
            found.kind = next(
                (v for n, v in _fields(value, where) if n == _MODEL_TYPE and isinstance(v, int)), found.kind
            )
        elif number == _NORMALIZER and isinstance(value, bytes):
            for inner, flag in _fields(value, where):
                if inner == _ADD_DUMMY_PREFIX:
                    found.add_dummy_prefix = bool(flag)
    if not found.pieces:
        raise FormatError(f"{where} holds no pieces: it is no model of SentencePiece")
    return found


def _piece(data: bytes, where: str) -> Piece:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data, where):
        if number == 1 and isinstance(value, bytes):
            try:
                text = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise FormatError(f"{where}: a piece is not UTF-8") from error
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, kind)


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | float | bytes]]:
    """(number, value) of a message's fields."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at, where)
        number, wire = key >> 3, key & 7
        value: int | float | bytes
        if wire == _VARINT:
            value, at = _varint(data, at, where)
        elif wire == _BYTES:
            n_bytes, at = _varint(data, at, where)
            value, at = _span(data, at, n_bytes, where)
        elif wire == _FIXED32:
            raw, at = _span(data, at, 4, where)
            (value,) = struct.unpack("<f", raw)
        elif wire == _FIXED64:
            value, at = _span(data, at, 8, where)
        else:
            raise FormatError(f"{where}, byte {at}: wire type {wire} is none of a model's; the file is damaged")
        yield number, value


def _span(data: bytes, at: int, n_bytes: int, where: str) -> tuple[bytes, int]:
    if n_bytes > len(data) - at:
        raise FormatError(f"{where}, byte {at}: {n_bytes} bytes are claimed, but {len(data) - at} are left")
    return data[at : at + n_bytes], at + n_bytes


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise FormatError(f"{where}, byte {at}: a number without an end; the file is damaged")
