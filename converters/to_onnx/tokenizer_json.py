"""The vocabulary of a GGUF file in the form of Hugging Face's ``tokenizers``: tokenizer.json and tokenizer_config.json.
Our own engines read the GGUF vocabulary instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeinfer.gguf import Metadata

__all__ = ["tokenizer_files"]

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
_WORDS = {"qwen2": _QWEN2, "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3}
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_PLAIN = ("gpt-2", "gpt2", "default", "phi-2", "jina-es", "jina-de", "mpt", "olmo", "roberta-bpe")
_CLASSES = {"qwen2": "Qwen2Tokenizer", "llama-bpe": "PreTrainedTokenizerFast"}
_SPACE, _INNER = "▁", "##"
_SPACE_PREFIX, _NORMALIZER = "edgeinfer.tokenizer.space_prefix", "edgeinfer.tokenizer.normalizer"
_SCHEMES = {"first": "first", "unless_space": "always"}
"""When our converters found that a space is put before a text -> Metaspace's word for it."""


def tokenizer_files(meta: Metadata) -> dict[str, dict[str, Any]]:
    """Both files by name; nothing for a vocabulary whose kind or pre-tokenizer is not known here."""
    reader = _KINDS.get(meta.text("tokenizer.ggml.model"))
    made = reader(meta) if reader else None
    if made is None:
        return {}
    pieces, name = made
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(meta), **pieces}
    return {"tokenizer.json": whole, "tokenizer_config.json": _config(meta, name)}


def _byte_level(meta: Metadata) -> tuple[dict[str, Any], str] | None:
    pre = meta.text("tokenizer.ggml.pre", "default")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pre in _WORDS:
        split = {"type": "Split", "pattern": {"Regex": _WORDS[pre]}, "behavior": "Isolated", "invert": False}
        steps = [split, byte_level | {"use_regex": False}]
    elif pre in _DIGITS_APART:
        steps = [{"type": "Digits", "individual_digits": True}, byte_level | {"use_regex": True}]
    elif pre in _PLAIN:
        steps = [byte_level | {"use_regex": True}]
    else:
        return None
    return {
        "normalizer": _unicode_form(meta),  # without one llama.cpp leaves text as it is
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": _surroundings(meta) or byte_level | {"use_regex": False},
        "decoder": byte_level | {"use_regex": True},
        "model": _bpe(meta, [merge.split(" ", 1) for merge in meta.strings("tokenizer.ggml.merges")]),
    }, _CLASSES.get(pre, "GPT2Tokenizer")


def _sentencepiece(meta: Metadata) -> tuple[dict[str, Any], str]:
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    scheme = _SCHEMES.get(meta.text(_SPACE_PREFIX, ""))
    prefixed = meta.flag("tokenizer.ggml.add_space_prefix", True) or scheme is not None
    prefix = [{"type": "Prepend", "prepend": _SPACE}] if prefixed else []
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": False}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefixed:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    gemma = not prefixed
    return {
        "normalizer": None if scheme else {"type": "Sequence", "normalizers": [*prefix, spaces]},
        "pre_tokenizer": metaspace if scheme else None,
        "post_processor": _surroundings(meta),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(meta, _merges(meta)) | {"byte_fallback": True, "fuse_unk": True},
    }, "GemmaTokenizer" if gemma else "LlamaTokenizer"


def _wordpiece(meta: Metadata) -> tuple[dict[str, Any], str]:
    """GGUF marks the beginning of a word, where BERT marks what is not one."""
    kinds, tokens = meta.numbers("tokenizer.ggml.token_type"), meta.strings("tokenizer.ggml.tokens")
    vocab = {}
    for index, text in enumerate(tokens):
        whole = kinds[index] in (_UNKNOWN, _CONTROL, _USER_DEFINED) or text.startswith(_SPACE)
        vocab[text.removeprefix(_SPACE) if whole else f"{_INNER}{text}"] = index
    unknown = _special(meta, "unknown") or (0, "[UNK]")
    lowercase = meta.flag("tokenizer.ggml.normalizer.lowercase", True)
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": meta.flag("tokenizer.ggml.normalizer.strip_accents", lowercase),
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _around(_special(meta, "bos"), _special(meta, "seperator") or _special(meta, "eos")),
        "decoder": {"type": "WordPiece", "prefix": _INNER, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown[1],
            "continuing_subword_prefix": _INNER,
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }, "PreTrainedTokenizerFast"


def _bpe(meta: Metadata, merges: list[list[str]]) -> dict[str, Any]:
    tokens = meta.strings("tokenizer.ggml.tokens")
    unknown = meta.integer("tokenizer.ggml.unknown_token_id", -1)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": tokens[unknown] if 0 <= unknown < len(tokens) else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": meta.text("tokenizer.ggml.pre", "") in ("llama-bpe", "llama3", "llama-v3"),
        "vocab": {text: index for index, text in enumerate(tokens)},
        "merges": merges,
    }


def _merges(meta: Metadata) -> list[list[str]]:
    """SentencePiece joins the pair whose whole has the best score: as a list of pairs, best first. Pairs of one whole
    come in the order of their parts."""
    tokens = meta.strings("tokenizer.ggml.tokens")
    scores = meta.numbers("tokenizer.ggml.scores").astype(np.float64)
    kinds = meta.numbers("tokenizer.ggml.token_type")
    known = {text: index for index, text in enumerate(tokens)}
    found: list[tuple[float, int, int, list[str]]] = []
    for index, text in enumerate(tokens):
        if len(text) < 2 or kinds[index] in (_UNKNOWN, _CONTROL, _BYTE):
            continue
        score = -float(scores[index])
        for cut in range(1, len(text)):
            left, right = known.get(text[:cut]), known.get(text[cut:])
            if left is not None and right is not None:
                found.append((score, left, right, [text[:cut], text[cut:]]))
    found.sort(key=lambda merge: merge[:3])
    return [pair for *_, pair in found]


def _special(meta: Metadata, name: str) -> tuple[int, str] | None:
    token = meta.integer(f"tokenizer.ggml.{name}_token_id", -1)
    tokens = meta.strings("tokenizer.ggml.tokens")
    return (token, tokens[token]) if 0 <= token < len(tokens) else None


def _starts(meta: Metadata) -> bool:
    """Whether a text begins with the token for that; by default as llama.cpp decides for each kind."""
    return meta.flag("tokenizer.ggml.add_bos_token", meta.text("tokenizer.ggml.model") == "llama")


def _unicode_form(meta: Metadata) -> dict[str, Any] | None:
    form = meta.text(_NORMALIZER, "")
    return {"type": form} if form.startswith("NF") else None


def _surroundings(meta: Metadata) -> dict[str, Any] | None:
    """The tokens before and after a text; None where there are none."""
    bos = _special(meta, "bos") if _starts(meta) else None
    ends = [name for name in ("eos", "sep") if meta.flag(f"tokenizer.ggml.add_{name}_token", False)]
    end = _special(meta, "eos" if ends == ["eos"] else "seperator") if ends else None
    if bos is None and end is None:
        return None
    before, after = ([{"SpecialToken": {"id": one[1], "type_id": 0}}] if one else [] for one in (bos, end))
    a, b = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [*before, a, *after],
        "pair": [*before, a, *after, b, *after],
        "special_tokens": {one[1]: {"id": one[1], "ids": [one[0]], "tokens": [one[1]]} for one in (bos, end) if one},
    }


def _around(*ends: tuple[int, str] | None) -> dict[str, Any] | None:
    """A text between two tokens; None where either is missing."""
    if None in ends:
        return None
    first, last = ({"SpecialToken": {"id": end[1], "type_id": 0}} for end in ends if end is not None)
    a, b = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first, a, last],
        "pair": [first, a, last, b, last],
        "special_tokens": {end[1]: {"id": end[1], "ids": [end[0]], "tokens": [end[1]]} for end in ends if end},
    }


def _added(meta: Metadata) -> list[dict[str, Any]]:
    """Tokens that are found in a text as they stand, before it is cut into words."""
    if "tokenizer.ggml.token_type" not in meta:
        return []
    kinds, tokens = meta.numbers("tokenizer.ggml.token_type"), meta.strings("tokenizer.ggml.tokens")
    plain = {"single_word": False, "normalized": False}
    strips = {
        flag: {*meta.text(f"edgeinfer.tokenizer.strip_{side}", "").split(",")}
        for flag, side in (("lstrip", "before"), ("rstrip", "after"))
    }
    chosen = np.isin(kinds, (_UNKNOWN, _CONTROL, _USER_DEFINED)).nonzero()[0]
    return [
        {
            "id": int(index),
            "content": tokens[int(index)],
            **plain,
            **{flag: str(index) in ids for flag, ids in strips.items()},
            "special": bool(kinds[index] != _USER_DEFINED),
        }
        for index in chosen
    ]


def _config(meta: Metadata, name: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "tokenizer_class": name,
        "add_bos_token": _starts(meta),
        "add_eos_token": meta.flag("tokenizer.ggml.add_eos_token", False),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }
    for key, token in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        special = _special(meta, token)
        made[key] = special[1] if special else None
    template = meta.get("tokenizer.chat_template")
    if isinstance(template, str):
        made["chat_template"] = template
    return made


_KINDS: dict[str, Callable[[Metadata], tuple[dict[str, Any], str] | None]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
    "bert": _wordpiece,
}
