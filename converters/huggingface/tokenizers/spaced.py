"""BPE over characters with bytes for what no token has, as SentencePiece makes it: Llama 2, Mistral, Gemma, Phi 3.
Spaces are U+2581, and words are not split before merging."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.converters.huggingface.tokenizers.byte_level import add_tokens
from edgeinfer.converters.huggingface.tokenizers.vocabulary import Kind, Tokens, Vocabulary
from edgeinfer.errors import UnsupportedModel
from edgeinfer.gguf.header import shown

__all__ = ["SPACE", "is_spaced", "prefix_of", "read"]

SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_spaced(document: Fields) -> bool:
    """Whether a BPE tokenizer is of this kind rather than over bytes."""
    texts = (str(document.raw("normalizer")), str(document.raw("pre_tokenizer")))
    return document.fields("model").flag("byte_fallback") or any(SPACE in text for text in texts)


def read(document: Fields, tokens: Tokens) -> Vocabulary:
    """As llama.cpp's SentencePiece, which merges whatever its vocabulary spells, the best score first, where that
    comes to the same as the merges; else as its BPE over characters, which goes by merges."""
    model = document.fields("model")
    add_tokens(model, tokens)
    for token_id, text in list(tokens.texts.items()):
        if _BYTE.fullmatch(text):
            tokens.add(token_id, text, Kind.BYTE)
    unknown = tokens.id_of(model.raw("unk_token"))
    if unknown is not None:
        tokens.add(unknown, tokens.texts[unknown], Kind.UNKNOWN)
    n_bytes = sum(kind is Kind.BYTE for kind in tokens.kinds.values())
    if not model.flag("byte_fallback") or n_bytes != 256:
        raise UnsupportedModel(f"{model.where}: {n_bytes} of 256 bytes have a token, and llama.cpp needs all of them")
    prefix = prefix_of(document)
    if _splits(document):
        _check_words(model, tokens)
    merges = _pairs(model)
    if _closed(merges, tokens):
        scores = model.raw("scores")
        made = Vocabulary("llama", tokens, scores=scores if isinstance(scores, dict) else _scores(merges, tokens))
        made.keys["add_space_prefix"] = prefix in ("true", "unless_space")
        made.space_prefix = "" if prefix == "true" else prefix
    else:
        _check_lines(model, tokens)
        joined = [f"{left} {right}" for left, right in merges]
        made = Vocabulary("gpt2", tokens, "sarvam-moe", merges=joined)
        made.space_prefix = prefix
    if unknown is not None:
        made.keys["unknown_token_id"] = unknown
    return made


def _pairs(model: Fields) -> list[tuple[str, str]]:
    """Tokens here may hold spaces of their own only in the newer form, which lists pairs."""
    found = []
    for merge in model.array("merges"):
        pair = merge if isinstance(merge, list) else str(merge).split(" ")
        if len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise model.wrong("merges", f"has {shown(str(merge))}, which is no pair of texts")
        found.append((pair[0], pair[1]))
    return found


def _closed(merges: list[tuple[str, str]], tokens: Tokens) -> bool:
    """Whether every two tokens that spell a third may be merged, which llama.cpp's SentencePiece takes for granted."""
    known = {text for token_id, text in tokens.texts.items() if tokens.kinds[token_id] is Kind.NORMAL}
    merged = set(merges)
    return all(
        (text[:at], text[at:]) in merged
        for text in known
        for at in range(1, len(text))
        if text[:at] in known and text[at:] in known
    )


def _scores(merges: list[tuple[str, str]], tokens: Tokens) -> Mapping[int, float]:
    """The sooner a token may be merged, the higher; single characters are never merged to."""
    scores = dict.fromkeys(tokens.texts, 0.0)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    for text, rank in ranks.items():
        token_id = tokens.id_of(text)
        if token_id is not None:
            scores[token_id] = -float(rank)
    return scores


def _check_lines(model: Fields, tokens: Tokens) -> None:
    """llama.cpp's BPE over characters splits text at newlines."""
    for token_id, text in tokens.texts.items():
        if tokens.kinds[token_id] is Kind.NORMAL and "\n" in text and text.strip("\n"):
            raise UnsupportedModel(
                f"{model.where}: token {token_id}, {shown(text)}, has a newline and more, and merges are not listed "
                "that its vocabulary allows: llama.cpp cannot split text like that"
            )


def _splits(document: Fields) -> bool:
    """Whether text is split at its spaces before it is merged."""
    parts = _parts(document.fields("pre_tokenizer"), "pretokenizers")
    return any(part.raw("type") == "Metaspace" and part.flag("split", True) for part in parts)


def _check_words(model: Fields, tokens: Tokens) -> None:
    """llama.cpp merges across spaces, which comes to the same where no token has one inside."""
    for token_id, text in tokens.texts.items():
        if tokens.kinds[token_id] is Kind.NORMAL and SPACE in text[1:]:
            raise UnsupportedModel(
                f"{model.where}: text is split at spaces first (Metaspace), but token {token_id}, {shown(text)}, has "
                "one inside, which llama.cpp would make"
            )


def prefix_of(document: Fields) -> str:
    """When a space is put before a text, as `Vocabulary.space_prefix` has it. Raises `UnsupportedModel` for
    preparations that llama.cpp does not know."""
    before = ""
    for part in _parts(document.fields("normalizer"), "normalizers"):
        kind, content = part.text("type", ""), part.raw("content")
        if kind == "Prepend" and part.raw("prepend") == SPACE:
            before = "true"
        elif not (kind == "Replace" and part.fields("pattern").raw("String") == " " and content == SPACE):
            raise UnsupportedModel(f"{part.where}: text is changed by {shown(kind)} first, which llama.cpp does not do")
    for part in _parts(document.fields("pre_tokenizer"), "pretokenizers"):
        kind = part.text("type", "")
        if kind == "Metaspace" and part.raw("replacement") in (SPACE, None):
            scheme = part.text("prepend_scheme", "always" if part.flag("add_prefix_space", True) else "never")
            schemes = {"never": "", "always": "unless_space", "first": "first"}
            before = before or schemes.get(scheme, "unless_space")
        elif not (kind == "Split" and part.fields("pattern").raw("String") == " "):  # no space is left to split at
            raise UnsupportedModel(f"{part.where}: text is split by {shown(kind)} first, which llama.cpp does not do")
    return before


def _parts(step: Fields, inner: str) -> list[Fields]:
    kind = step.text("type", "")
    if kind == "Sequence":
        return [Fields(part if isinstance(part, dict) else {}, step.where) for part in step.array(inner)]
    return [step] if kind else []
