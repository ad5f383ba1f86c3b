"""Tokenizers in the files that were before ``tokenizer.json``, brought into its form: SentencePiece's
``tokenizer.model``, BERT's ``vocab.txt``, GPT-2's ``vocab.json`` with ``merges.txt``."""

from __future__ import annotations

from typing import Any

from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.converters.huggingface.tokenizers.model_file import Piece, read_model
from edgeinfer.converters.huggingface.tokenizers.pretokenizers import QWEN2
from edgeinfer.errors import UnsupportedModel
from edgeinfer.gguf.header import shown

__all__ = ["tokenizer_json"]

_MODEL_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_UNIGRAM, _BPE = 1, 2
_UNKNOWN, _CONTROL, _USER, _BYTE = 2, 3, 4, 6  # SentencePiece's types of pieces
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_SPLITS: dict[str, dict[str, Any]] = {
    "GPT2Tokenizer": _BYTE_LEVEL,
    "RobertaTokenizer": _BYTE_LEVEL,
    "Qwen2Tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False},
            {**_BYTE_LEVEL, "use_regex": False},
        ],
    },
}


def tokenizer_json(checkpoint: Checkpoint) -> Fields | None:
    """What a ``tokenizer.json`` of these would hold, None where there are none."""
    for name in _MODEL_FILES:
        data = checkpoint.data(name)
        if data is not None:
            return _sentencepiece(checkpoint, data, str(checkpoint.folder / name))
    words = checkpoint.text("vocab.txt")
    if words is not None:
        return _wordpiece(checkpoint, words)
    vocab, merges = checkpoint.document("vocab.json"), checkpoint.text("merges.txt")
    return _gpt2(checkpoint, vocab, merges) if vocab is not None and merges is not None else None


def _sentencepiece(checkpoint: Checkpoint, data: bytes, where: str) -> Fields:
    found = read_model(data, where)
    added = [
        {"id": i, "content": piece.text, "special": piece.kind in (_CONTROL, _UNKNOWN)}
        for i, piece in enumerate(found.pieces)
        if piece.kind in (_CONTROL, _USER, _UNKNOWN)
    ]
    added += _added(checkpoint, {piece.text for piece in found.pieces})
    prepend: list[dict[str, Any]] = [{"type": "Prepend", "prepend": "\u2581"}] if found.add_dummy_prefix else []
    if found.kind == _BPE:
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        return Fields(
            {
                "model": _bpe_model(found.pieces),
                "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
                "added_tokens": added,
                "post_processor": _bos_template(checkpoint, found.pieces),
            },
            where,
        )
    raise UnsupportedModel(
        f"{where} is of SentencePiece's type {found.kind}; only BPE is read without a tokenizer.json"
    )


def _bpe_model(pieces: list[Piece]) -> dict[str, Any]:
    """SentencePiece merges any two pieces that spell a third, the one of best score first."""
    known = {piece.text: piece for piece in pieces if piece.kind not in (_CONTROL, _UNKNOWN, _BYTE, _USER)}
    ordered = sorted(known.values(), key=lambda piece: -piece.score)
    merges = [
        [piece.text[:at], piece.text[at:]]
        for piece in ordered
        for at in range(1, len(piece.text))
        if piece.text[:at] in known and piece.text[at:] in known
    ]
    unknown = next((piece.text for piece in pieces if piece.kind == _UNKNOWN), None)
    return {
        "type": "BPE",
        "vocab": {piece.text: i for i, piece in enumerate(pieces)},
        "merges": merges,
        "scores": {i: piece.score for i, piece in enumerate(pieces)},
        "byte_fallback": any(piece.kind == _BYTE for piece in pieces),
        "unk_token": unknown,
    }


def _bos_template(checkpoint: Checkpoint, pieces: list[Piece]) -> dict[str, Any]:
    """Llama's class puts its BOS token before a text unless it is told not to."""
    config = checkpoint.document("tokenizer_config.json") or Fields({}, "tokenizer_config.json")
    texts = [piece.text for piece in pieces]
    stated = config.raw("bos_token")
    name = stated.get("content") if isinstance(stated, dict) else stated if isinstance(stated, str) else "<s>"
    if not config.flag("add_bos_token", True) or name not in texts:
        return {}
    token = {"id": name, "ids": [texts.index(name)], "tokens": [name]}
    single = [{"SpecialToken": {"id": name}}, {"Sequence": {"id": "A"}}]
    return {"type": "TemplateProcessing", "single": single, "special_tokens": {name: token}}


def _added(checkpoint: Checkpoint, known: set[str]) -> list[dict[str, Any]]:
    document = checkpoint.document("added_tokens.json")
    entries = document.items() if document is not None else []
    return [{"id": token_id, "content": text, "special": False} for text, token_id in entries if text not in known]


def _wordpiece(checkpoint: Checkpoint, words: str) -> Fields:
    config = checkpoint.document("tokenizer_config.json") or Fields({}, "tokenizer_config.json")
    texts = words.splitlines()
    vocab = {text: i for i, text in enumerate(texts)}
    special = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if name in vocab]
    return Fields(
        {
            "model": {"type": "WordPiece", "vocab": vocab, "unk_token": config.text("unk_token", "[UNK]")},
            "normalizer": {
                "type": "BertNormalizer",
                "lowercase": config.flag("do_lower_case", True),
                "strip_accents": config.raw("strip_accents"),
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "added_tokens": [{"id": vocab[name], "content": name, "special": True} for name in special],
            "post_processor": {
                "type": "BertProcessing",
                "cls": ["[CLS]", vocab.get("[CLS]")],
                "sep": ["[SEP]", vocab.get("[SEP]")],
            },
        },
        str(checkpoint.folder / "vocab.txt"),
    )


def _gpt2(checkpoint: Checkpoint, vocab: Fields, merges: str) -> Fields:
    config = checkpoint.document("tokenizer_config.json") or Fields({}, "tokenizer_config.json")
    name = config.text("tokenizer_class", "GPT2Tokenizer").removesuffix("Fast")
    if name not in _SPLITS:
        raise UnsupportedModel(f"{vocab.where}: how {shown(name)} splits text is not said; give the tokenizer.json")
    lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
    texts = dict(vocab.items())
    return Fields(
        {
            "model": {"type": "BPE", "vocab": texts, "merges": lines},
            "normalizer": {"type": "NFC"} if name == "Qwen2Tokenizer" else None,
            "pre_tokenizer": _SPLITS[name],
            "added_tokens": _added(checkpoint, set(texts)),
        },
        vocab.where,
    )
