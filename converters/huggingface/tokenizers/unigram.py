"""SentencePiece's unigram model, as XLM-RoBERTa has it: the likeliest way to spell a text with tokens."""

from __future__ import annotations

import base64
import binascii

import numpy as np

from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.converters.huggingface.tokenizers.spaced import SPACE
from edgeinfer.converters.huggingface.tokenizers.vocabulary import Kind, Tokens, Vocabulary
from edgeinfer.errors import UnsupportedModel
from edgeinfer.gguf.header import shown

__all__ = ["read"]


def read(document: Fields, tokens: Tokens) -> Vocabulary:
    model = document.fields("model")
    if model.flag("byte_fallback"):
        raise UnsupportedModel(
            f"{model.where}: bytes for unknown characters (byte_fallback) are not in llama.cpp's unigram"
        )
    scores: dict[int, float] = {}
    for token_id, entry in enumerate(model.array("vocab")):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], int | float):
            raise model.wrong("vocab", f"has {shown(str(entry))}, which is no text with its score")
        tokens.add(token_id, entry[0], Kind.NORMAL)
        scores[token_id] = float(entry[1])
    unknown = model.integer("unk_id", low=0, high=max(0, tokens.n - 1))
    tokens.add(unknown, tokens.texts[unknown], Kind.UNKNOWN)
    made = Vocabulary("t5", tokens, scores=scores)
    made.keys["unknown_token_id"] = unknown
    collapses = _normalizer(document, made)
    _spaces(document, made, collapses)
    return made


def _normalizer(document: Fields, made: Vocabulary) -> bool:
    """Take over the map of characters; whether runs of spaces become one."""
    normalizer = document.fields("normalizer")
    kind = normalizer.text("type", "")
    parts = [
        Fields(part if isinstance(part, dict) else {}, normalizer.where) for part in normalizer.array("normalizers")
    ]
    collapses = False
    for part in parts if kind == "Sequence" else [normalizer] if kind else []:
        kind = part.text("type", "")
        if kind == "Precompiled":
            made.keys["precompiled_charsmap"] = _charsmap(part)
        elif kind == "Strip" or (kind == "Replace" and part.fields("pattern").raw("Regex") in (" {2,}", r"\s{2,}")):
            collapses = True
        else:
            raise UnsupportedModel(f"{part.where}: text is changed by {shown(kind)} first, which llama.cpp does not do")
    return collapses


def _charsmap(part: Fields) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
    try:
        data = base64.b64decode(part.text("precompiled_charsmap"), validate=True)
    except binascii.Error as error:
        raise part.wrong("precompiled_charsmap", f"is not base64: {error}") from error
    return np.frombuffer(data, np.uint8)


def _spaces(document: Fields, made: Vocabulary, collapses: bool) -> None:
    pre = document.fields("pre_tokenizer")
    kind = pre.text("type", "")
    parts = [Fields(part if isinstance(part, dict) else {}, pre.where) for part in pre.array("pretokenizers")]
    prefix = False
    for part in parts if kind == "Sequence" else [pre] if kind else []:
        kind = part.text("type", "")
        if kind == "WhitespaceSplit":
            collapses = True
            made.normalizer = "spaces"
        elif kind == "Metaspace" and part.raw("replacement") in (SPACE, None):
            prefix = (
                part.text("prepend_scheme", "always" if part.flag("add_prefix_space", True) else "never") != "never"
            )
            made.space_prefix = "unless_space" if prefix and not collapses else ""
        else:
            raise UnsupportedModel(f"{part.where}: text is split by {shown(kind)} first, which llama.cpp does not do")
    made.keys["add_space_prefix"] = prefix
    made.keys["remove_extra_whitespaces"] = collapses
