"""From a checkpoint's files to a vocabulary: which kind of tokenizer it is, its special tokens and what it puts around
a text. The kinds themselves have modules of their own."""

from __future__ import annotations

from typing import Any

from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.converters.huggingface.tokenizers import byte_level, legacy, spaced, unigram, wordpiece
from edgeinfer.converters.huggingface.tokenizers.vocabulary import Kind, Tokens, Vocabulary
from edgeinfer.errors import FormatError, ModelNotFound, UnsupportedModel
from edgeinfer.gguf.header import shown

__all__ = ["read_vocabulary"]

_SPECIAL = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
    "sep_token": "seperator",  # GGUF's spelling
    "cls_token": "cls",
    "mask_token": "mask",
}
"""Name in tokenizer_config.json -> name in GGUF, which adds _token_id."""


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """The tokenizer of a checkpoint. Raises `ModelNotFound` where there is none, `UnsupportedModel` for one that
    llama.cpp cannot follow, `FormatError` for one that contradicts itself."""
    document = checkpoint.document("tokenizer.json") or legacy.tokenizer_json(checkpoint)
    if document is None:
        raise ModelNotFound(
            f"{checkpoint.folder} has no tokenizer: tokenizer.json, tokenizer.model, vocab.txt, or vocab.json with "
            "merges.txt"
        )
    tokens = Tokens(document.where)
    vocabulary = _by_kind(document, tokens)
    _add_special(document, tokens)
    vocabulary.strips = _strips(document)
    config = checkpoint.document("tokenizer_config.json") or Fields({}, "tokenizer_config.json")
    _add_configured(config, tokens)
    _special_ids(checkpoint, config, vocabulary)
    legacy_flags = Fields({}, config.where) if checkpoint.document("tokenizer.json") else config
    _surroundings(document, legacy_flags, vocabulary)
    return vocabulary


def _by_kind(document: Fields, tokens: Tokens) -> Vocabulary:
    model = document.fields("model")
    kind = model.text("type", "BPE" if "merges" in model else "")
    if kind == "BPE" and spaced.is_spaced(document):
        return spaced.read(document, tokens)
    if kind == "BPE":
        return byte_level.read(document, tokens)
    if kind == "Unigram":
        return unigram.read(document, tokens)
    if kind == "WordPiece":
        return wordpiece.read(document, tokens)
    raise UnsupportedModel(f"{document.where}: a tokenizer of type {shown(kind)}; there are BPE, Unigram and WordPiece")


def _add_special(document: Fields, tokens: Tokens) -> None:
    for entry in document.array("added_tokens"):
        added = Fields(entry if isinstance(entry, dict) else {}, f"{document.where}: added_tokens")
        token_id, text = added.integer("id", low=0), added.text("content")
        special = added.flag("special")
        for flag in ("single_word", *(() if special else ("lstrip", "rstrip"))):
            if added.flag(flag):
                raise UnsupportedModel(f"{added.where}: {shown(text)} is found by {flag}, which llama.cpp does not do")
        if tokens.kinds.get(token_id) is Kind.UNKNOWN:
            continue
        tokens.add(token_id, text, Kind.CONTROL if special else Kind.USER_DEFINED)


def _strips(document: Fields) -> dict[str, list[int]]:
    """Special tokens that take white space away, such as those of Phi 3."""
    found: dict[str, list[int]] = {"before": [], "after": []}
    for entry in document.array("added_tokens"):
        added = Fields(entry if isinstance(entry, dict) else {}, f"{document.where}: added_tokens")
        for side, flag in (("before", "lstrip"), ("after", "rstrip")):
            if added.flag(flag) and added.flag("special"):
                found[side].append(added.integer("id", low=0))
    return found


def _add_configured(config: Fields, tokens: Tokens) -> None:
    """Tokens that only tokenizer_config.json knows of."""
    for key, entry in config.fields("added_tokens_decoder").items():
        added = Fields(entry if isinstance(entry, dict) else {}, f"{config.where}: added_tokens_decoder")
        if key.isdecimal() and int(key) not in tokens.texts and tokens.id_of(added.text("content")) is None:
            tokens.add(int(key), added.text("content"), Kind.CONTROL if added.flag("special") else Kind.USER_DEFINED)


def _special_ids(checkpoint: Checkpoint, config: Fields, vocabulary: Vocabulary) -> None:
    """Ids of the tokens with a part to play, by their texts in tokenizer_config.json, else by config.json's ids."""
    others = checkpoint.document("special_tokens_map.json") or Fields({}, "special_tokens_map.json")
    tokens = vocabulary.tokens
    for name, ours in _SPECIAL.items():
        found = tokens.id_of(_content(config.raw(name)))
        found = tokens.id_of(_content(others.raw(name))) if found is None else found
        stated = checkpoint.config.raw(f"{name}_id")
        if found is None and name in ("bos_token", "eos_token", "pad_token") and name not in config:
            found = stated if isinstance(stated, int) and stated in tokens.texts else None
        if found is not None:
            vocabulary.keys.setdefault(f"{ours}_token_id", found)
    _ends(checkpoint, vocabulary)


def _ends(checkpoint: Checkpoint, vocabulary: Vocabulary) -> None:
    """Where an answer ends: generation_config.json may name several tokens; GGUF has an end of text and one of turn."""
    generation = checkpoint.document("generation_config.json") or Fields({}, "generation_config.json")
    for source in (generation, checkpoint.config):
        ends = source.raw("eos_token_id")
        ids = [ends] if isinstance(ends, int) else ends if isinstance(ends, list) else []
        known = [i for i in ids if isinstance(i, int) and i in vocabulary.tokens.texts]
        if not known:
            continue
        eos = vocabulary.keys.setdefault("eos_token_id", known[0])
        others = [i for i in known if i != eos]
        if others:
            vocabulary.keys.setdefault("eot_token_id", others[-1])
        return


def _content(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


def _surroundings(document: Fields, config: Fields, vocabulary: Vocabulary) -> None:
    """What is put before and after a text. A tokenizer.json says it all: beside one transformers takes no notice of
    add_bos_token and add_eos_token in ``config``."""
    before, after = _template(document.fields("post_processor"), vocabulary.tokens)
    if len(before) > 1 or len(after) > 1:
        raise UnsupportedModel(f"{document.where}: {len(before)} tokens before a text and {len(after)} after it")
    keys = vocabulary.keys
    if before:
        keys["bos_token_id"] = before[0]
    keys["add_bos_token"] = config.flag("add_bos_token", bool(before)) and "bos_token_id" in keys
    is_end = bool(after) and keys.get("eos_token_id") == after[0]
    if vocabulary.model == "bert" or (after and not is_end):
        if after:
            keys["seperator_token_id"] = after[0]
        keys["add_sep_token"] = bool(after)
        keys["add_eos_token"] = False
    else:
        keys["add_sep_token"] = False
        keys["add_eos_token"] = config.flag("add_eos_token", is_end) and "eos_token_id" in keys


def _template(post: Fields, tokens: Tokens) -> tuple[list[int], list[int]]:
    """Ids before and after a single text."""
    kind = post.text("type", "")
    if kind == "Sequence":
        parts = [Fields(part if isinstance(part, dict) else {}, post.where) for part in post.array("processors")]
        found = [_template(part, tokens) for part in parts]
        return [i for before, _ in found for i in before], [i for _, after in found for i in after]
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [_named(post, "cls", tokens)], [_named(post, "sep", tokens)]
    if kind != "TemplateProcessing":
        return [], []
    before: list[int] = []
    after: list[int] = []
    seen = False
    for entry in post.array("single"):
        piece = Fields(entry if isinstance(entry, dict) else {}, post.where)
        if "Sequence" in piece:
            seen = True
            continue
        name = piece.fields("SpecialToken").text("id")
        for token_id in post.fields("special_tokens").fields(name).array("ids"):
            if token_id not in tokens.texts:
                raise FormatError(f"{post.where}: {shown(name)} is token {shown(str(token_id))}, which is not there")
            (after if seen else before).append(token_id)
    return before, after


def _named(post: Fields, key: str, tokens: Tokens) -> int:
    pair = post.array(key)
    if len(pair) != 2 or pair[1] not in tokens.texts:
        raise post.wrong(key, "is no token with its id")
    return int(pair[1])
