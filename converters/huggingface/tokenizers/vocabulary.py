"""A vocabulary as GGUF has it: the tokens with their types, what merges or scores them, and how text is prepared."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgeinfer.converters.huggingface.description import Value
from edgeinfer.errors import FormatError
from edgeinfer.gguf.header import shown

__all__ = ["PAD", "Kind", "Tokens", "Vocabulary"]

PAD = "[PAD{}]"
"""Text of ids that no token has."""


class Kind(enum.IntEnum):
    """GGUF's types of tokens."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Tokens:
    """Ids with their texts and types, in the making. Ids may have gaps."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.texts: dict[int, str] = {}
        self.kinds: dict[int, Kind] = {}
        self._ids: dict[str, int] = {}

    def add(self, token_id: object, text: object, kind: Kind) -> None:
        """Give an id its text and type, or change them. Raises `FormatError` for what cannot be either."""
        if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < 1 << 24:
            raise FormatError(f"{self._where}: token id {shown(str(token_id))} is no id")
        if not isinstance(text, str):
            raise FormatError(f"{self._where}: the text of token {token_id} is not text")
        old = self.texts.get(token_id)
        if old is not None and old != text:
            self._ids.pop(old, None)
        if self._ids.get(text, token_id) != token_id:
            raise FormatError(f"{self._where}: {shown(text)} is token {self._ids[text]} and token {token_id}")
        self.texts[token_id], self.kinds[token_id], self._ids[text] = text, kind, token_id

    def id_of(self, text: object) -> int | None:
        return self._ids.get(text) if isinstance(text, str) else None

    @property
    def n(self) -> int:
        """One more than the highest id."""
        return max(self.texts, default=-1) + 1


@dataclass(slots=True)
class Vocabulary:
    """``model``: GGUF's kind of tokenizer (gpt2, llama, t5, bert); ``pre``: how llama.cpp splits text before it merges.
    ``keys``: everything else, without ``tokenizer.ggml.``. ``normalizer``: a Unicode form that text must be brought
    into first, or ``spaces`` for one space between words; ``space_prefix`` when to put a space before it: always
    (``true``), ``unless_space`` is there already, or ``first``, before the whole text alone; ``strips``: special tokens
    that take the white space ``before`` or ``after`` them away. Our tokenizer does these, llama.cpp does not."""

    model: str
    tokens: Tokens
    pre: str = "default"
    scores: Mapping[int, float] | None = None
    merges: list[str] | None = None
    keys: dict[str, Value] = field(default_factory=dict)
    normalizer: str | None = None
    space_prefix: str = ""
    strips: Mapping[str, list[int]] = field(default_factory=dict)

    def metadata(self, n_vocab: int, where: str) -> dict[str, Value]:
        """All keys of a vocabulary of ``n_vocab`` ids; ids without a token get one that no text has. Raises
        `FormatError` where there are more tokens than that."""
        if self.tokens.n > n_vocab:
            raise FormatError(
                f"{where}: the tokenizer has ids up to {self.tokens.n - 1}, but the embedding only {n_vocab} rows"
            )
        texts = [self.tokens.texts.get(i, PAD.format(i)) for i in range(n_vocab)]
        kinds = [int(self.tokens.kinds.get(i, Kind.UNUSED)) for i in range(n_vocab)]
        found: dict[str, Value] = {"model": self.model, "pre": self.pre, "tokens": texts}
        found["token_type"] = np.array(kinds, np.int32)
        if self.scores is not None:
            found["scores"] = np.array([self.scores.get(i, -1e4) for i in range(n_vocab)], np.float32)
        if self.merges is not None:
            found["merges"] = self.merges
        keys = {f"tokenizer.ggml.{key}": value for key, value in (found | self.keys).items()}
        if self.normalizer:
            keys["edgeinfer.tokenizer.normalizer"] = self.normalizer
        if self.space_prefix:
            keys["edgeinfer.tokenizer.space_prefix"] = self.space_prefix
        for side, ids in self.strips.items():
            if ids:
                keys[f"edgeinfer.tokenizer.strip_{side}"] = ",".join(map(str, ids))
        return keys
