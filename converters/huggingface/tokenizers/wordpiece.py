"""WordPiece, as BERT has it: words of the longest pieces there are."""

from __future__ import annotations

from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.converters.huggingface.tokenizers.byte_level import add_tokens
from edgeinfer.converters.huggingface.tokenizers.spaced import SPACE
from edgeinfer.converters.huggingface.tokenizers.vocabulary import Kind, Tokens, Vocabulary
from edgeinfer.errors import UnsupportedModel
from edgeinfer.gguf.header import shown

__all__ = ["read"]


def read(document: Fields, tokens: Tokens) -> Vocabulary:
    """llama.cpp marks the beginning of a word (with U+2581) instead of the middle, so all texts change."""
    model = document.fields("model")
    inner = model.text("continuing_subword_prefix", "##")
    plain = Tokens(model.where)
    add_tokens(model, plain)
    added = [entry for entry in document.array("added_tokens") if isinstance(entry, dict)]
    special = {entry.get("content") for entry in added}
    words = [entry.get("content") for entry in added if not entry.get("special")]
    if words:
        raise UnsupportedModel(
            f"{document.where}: {len(words)} words such as {shown(str(words[0]))} were added that are found "
            "before text is split, which llama.cpp does not do"
        )
    unknown = model.text("unk_token", "[UNK]")
    for token_id, text in sorted(plain.texts.items()):
        if text in special or text == unknown:
            tokens.add(token_id, text, Kind.UNKNOWN if text == unknown else Kind.CONTROL)
        else:
            tokens.add(token_id, text.removeprefix(inner) if text.startswith(inner) else SPACE + text, Kind.NORMAL)
    if tokens.id_of(unknown) is None:
        raise model.wrong("unk_token", f"{shown(unknown)} is not in the vocabulary")
    made = Vocabulary("bert", tokens)
    made.keys["unknown_token_id"] = tokens.id_of(unknown) or 0
    _normalizer(document, made)
    return made


def _normalizer(document: Fields, made: Vocabulary) -> None:
    normalizer, pre = document.fields("normalizer"), document.fields("pre_tokenizer")
    if normalizer.text("type", "") != "BertNormalizer" or pre.text("type", "") != "BertPreTokenizer":
        kinds = shown(f"{normalizer.raw('type')}, {pre.raw('type')}")
        raise UnsupportedModel(f"{document.where}: text is prepared by {kinds}; llama.cpp does what BERT does")
    for key in ("clean_text", "handle_chinese_chars"):
        if not normalizer.flag(key, True):
            raise UnsupportedModel(f"{normalizer.where}: {key} is off, and llama.cpp does it always")
    lowercase = normalizer.flag("lowercase", True)
    made.keys["normalizer.lowercase"] = lowercase
    made.keys["normalizer.strip_accents"] = normalizer.flag("strip_accents", lowercase)
