"""How a text becomes one vector: the tokens around it that its model expects, and how the states of its tokens are made
into one. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import FormatError, UnsupportedModel
from edgeinfer.gguf import GGUFFile
from edgeinfer.text import Codec, Tokenizer

__all__ = ["PLAIN", "Embedding", "embedding_of"]

Pooling = Literal["mean", "cls", "last"]
Floats = npt.NDArray[np.float32]
_POOLING: dict[int, Pooling] = {0: "mean", 1: "mean", 2: "cls", 3: "last"}  # llama.cpp's numbers; 0: not said


@dataclass(frozen=True, slots=True)
class Embedding:
    """``pooling``: the mean of all tokens' states, the first token's, or the last one's. ``suffix``: what is put after
    a text. ``generates``: whether the model can answer too; an encoder cannot."""

    pooling: Pooling = "mean"
    suffix: tuple[int, ...] = ()
    generates: bool = True

    def token_ids(self, tokenizer: Codec, text: str) -> npt.NDArray[np.int32]:
        """Ids of a text with what belongs around it; none for an empty text."""
        ids = tokenizer.encode(text)
        if not len(ids):
            return ids
        ids = tokenizer.encode(text, add_bos=tokenizer.adds_bos)
        return np.concatenate((ids, np.array(self.suffix, np.int32))) if self.suffix else ids

    def pooled(self, states: Sequence[Floats], normalize: bool) -> Floats:
        """One row for each text, ``(n_texts, n_embd)``, of length 1 where ``normalize``."""
        rows = np.stack([self._one(each) for each in states]) if states else np.empty((0, 0), np.float32)
        if normalize and rows.size:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        found: Floats = rows.astype(np.float32)
        return found

    def _one(self, states: Floats) -> Floats:
        if self.pooling == "mean":
            mean: Floats = states.mean(axis=0)
            return mean
        one: Floats = states[0] if self.pooling == "cls" else states[-1]
        return one

    def check_generates(self) -> None:
        """Raise `UnsupportedModel` for an encoder."""
        if not self.generates:
            raise UnsupportedModel("this model is an encoder: it makes embeddings and answers nothing; choose another")


PLAIN = Embedding()
"""Of an engine whose model is not known."""


def embedding_of(file: GGUFFile, tokenizer: Tokenizer) -> Embedding:
    """What a model's file says. Raises `FormatError` for a number of pooling that does not exist."""
    meta, name = file.metadata, file.architecture
    number = meta.integer(f"{name}.pooling_type", 0)
    if number not in _POOLING:
        raise FormatError(
            f"{file.path}: {name}.pooling_type is {number}, but must be one of {', '.join(map(str, _POOLING))}"
        )
    return Embedding(_POOLING[number], tokenizer.suffix_ids, meta.flag(f"{name}.attention.causal", True))
