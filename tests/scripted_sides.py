"""Models for comparisons that take no time: scripted engines whose logits follow from the tokens before."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.opening import Opened
from edgeinfer.text.byte_tokenizer import ByteTokenizer

Row = npt.NDArray[np.float32]
Change = Callable[[Sequence[int], Row], Row]


def row_of(tokens: Sequence[int], n_vocab: int) -> Row:
    """Logits after these tokens: drawn by them. The last three count, so that texts that parted may meet again."""
    seed = zlib.crc32(np.array(tokens[-3:], np.int32).tobytes())
    row = np.random.default_rng(seed).standard_normal(n_vocab).astype(np.float32) * 3
    row[256:] = -30.0  # it ends no text by itself
    return row


class ScriptedSide:
    """Opens scripted models. ``change`` makes this one differ from others; ``engines`` are those that were opened."""

    def __init__(
        self,
        change: Change = lambda _tokens, row: row,
        *,
        tokenizer: ByteTokenizer | None = None,
        n_ctx: int = 1024,
        n_seq_max: int = 4,
        block_size: int = 1,
        n_batch: int = 512,
    ) -> None:
        self._change = change
        self._tokenizer = tokenizer or ByteTokenizer()
        self._sizes = {"n_ctx": n_ctx, "n_seq_max": n_seq_max, "block_size": block_size, "n_batch": n_batch}
        self.engines: list[ScriptedEngine] = []

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Opened]:
        n_vocab = self._tokenizer.n_vocab
        engine = ScriptedEngine(
            lambda tokens: self._change(tokens, row_of(tokens, n_vocab)), n_vocab=n_vocab, **self._sizes
        )
        self.engines.append(engine)
        yield Opened(engine, self._tokenizer)
        engine.close()
