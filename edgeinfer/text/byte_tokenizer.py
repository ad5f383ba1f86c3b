"""A tokenizer without a model: one token a byte. For tests with `edgeinfer.engines.scripted`, ours and our users'."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgeinfer.text.specials import ControlTokens, TokenIds

__all__ = ["ByteTokenizer"]


class ByteTokenizer:
    """Token ids 0 to 255 are the bytes; after them come ``control`` tokens, the first of which begins a text and the
    second ends an answer."""

    def __init__(self, control: tuple[str, ...] = ("<s>", "</s>", "<|turn|>"), *, adds_bos: bool = False) -> None:
        self.control_tokens = ControlTokens({text: 256 + i for i, text in enumerate(control)})
        self.n_vocab = 256 + len(control)
        self.bos_id, self.eos_id = 256, 257
        self.eog_ids = frozenset([self.eos_id])
        self.adds_bos = adds_bos

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> TokenIds:
        ids = self.control_tokens.encode(text, text, self._plain) if parse_special else self._plain(text)
        return np.concatenate((np.array([self.bos_id] if add_bos else [], np.int32), ids))

    def _plain(self, text: str) -> TokenIds:
        return np.array(list(text.encode()), np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.token_bytes(int(i)) for i in ids).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def close(self) -> None:
        pass
