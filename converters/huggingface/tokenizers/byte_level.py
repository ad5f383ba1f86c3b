"""BPE over bytes, as GPT-2, Llama 3 and Qwen have it: every byte is a character, and merges join them within words."""

from __future__ import annotations

from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.converters.huggingface.tokenizers.pretokenizers import pre_tokenizer
from edgeinfer.converters.huggingface.tokenizers.vocabulary import Kind, Tokens, Vocabulary
from edgeinfer.errors import UnsupportedModel
from edgeinfer.gguf.header import shown

__all__ = ["add_tokens", "read", "read_merges", "unicode_form"]

_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def read(document: Fields, tokens: Tokens) -> Vocabulary:
    model = document.fields("model")
    add_tokens(model, tokens)
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.raw(key):
            raise UnsupportedModel(f"{model.where}: {key} is {shown(str(model.raw(key)))}, which llama.cpp does not do")
    if model.raw("dropout"):
        raise UnsupportedModel(f"{model.where}: dropout is set, so that the same text has several splittings")
    pre = pre_tokenizer(document.fields("pre_tokenizer"), model.flag("ignore_merges"))
    return Vocabulary("gpt2", tokens, pre, merges=read_merges(model), normalizer=unicode_form(document))


def add_tokens(model: Fields, tokens: Tokens) -> None:
    for text, token_id in model.fields("vocab").items():
        tokens.add(token_id, text, Kind.NORMAL)


def read_merges(model: Fields) -> list[str]:
    """As GGUF has them, two texts with a space between. Raises `FormatError` for what is no merge of two."""
    found = []
    for merge in model.array("merges"):
        pair = merge if isinstance(merge, list) else str(merge).split(" ") if merge else []
        if len(pair) != 2 or not all(isinstance(part, str) and part and " " not in part for part in pair):
            raise model.wrong("merges", f"has {shown(str(merge))}, which is no pair of texts")
        found.append(f"{pair[0]} {pair[1]}")
    return found


def unicode_form(document: Fields) -> str | None:
    """The Unicode form that text is brought into first, None for as it is. Raises `UnsupportedModel` for more."""
    normalizer = document.fields("normalizer")
    kind = normalizer.text("type", "")
    parts = normalizer.array("normalizers") if kind == "Sequence" else [normalizer.content] if kind else []
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    if not kinds:
        return None
    if len(kinds) == 1 and kinds[0] in _FORMS:
        return str(kinds[0])
    raise UnsupportedModel(
        f"{normalizer.where}: text is changed by {shown(str(kinds))} first, which llama.cpp does not do"
    )
