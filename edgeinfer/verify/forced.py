"""A model's logits along a given text, whatever it would have said itself: teacher forcing.

The text is read in windows, each from an empty context. Knows integers only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.engines import Engine
from edgeinfer.engines.base import Logits, Slice
from edgeinfer.errors import NumericError, UsageError

__all__ = ["Position", "Window", "logit_rows", "windows"]

TokenIds = npt.NDArray[np.int32]
Told = Callable[[int, int], None]
"""Hears how far a long piece of work is: (done, total)."""

_N_ROWS = 64
"""Rows of logits that are asked for at once: 64 of a vocabulary of 150,000 are 39 MB."""


@dataclass(frozen=True, slots=True)
class Window:
    """A run of text. ``inputs`` are read, and row i says what it expects after the first i + 1 of them, where
    ``targets[i]`` came."""

    inputs: TokenIds
    targets: TokenIds

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a text: the window, and the place in it, both from 0."""

    window: int
    index: int


def windows(ids: TokenIds, n_positions: int, n_window: int, bos_id: int | None) -> tuple[Window, ...]:
    """Cut a text of token ids into windows of ``n_window`` positions, ``n_positions`` in all or as many as the text
    has. With a ``bos_id`` each begins with it. Raises `UsageError` for a text of fewer than 2 positions."""
    found: list[Window] = []
    begin, left, lead = 0, n_positions, 0 if bos_id is None else 1
    while left > 0:
        n = min(n_window, left, len(ids) - begin - 1 + lead)
        if n <= 0:
            break
        inputs = ids[begin : begin + n - lead]
        if bos_id is not None:
            inputs = np.concatenate((np.array([bos_id], np.int32), inputs))
        found.append(Window(inputs, ids[begin + 1 - lead : begin + 1 - lead + n]))
        begin, left = begin + n, left - n
    if sum(map(len, found)) < 2:
        raise UsageError(f"the text has {len(ids)} tokens, which is too few to compare anything on")
    return tuple(found)


def logit_rows(engine: Engine, text: Sequence[Window], told: Told = lambda _done, _total: None) -> Iterator[Logits]:
    """Logits of every position of the text in order, in chunks ``(n, n_vocab)`` that never span windows; each is valid
    until the next is asked for. Sequence 0 of the engine is used, and empty afterwards.

    Raises `NumericError`, naming the position, for logits that are not numbers, and what the engine raises."""
    step = min(max(_N_ROWS // engine.block_size, 1) * engine.block_size, engine.n_batch)
    done, total = 0, sum(map(len, text))
    try:
        for number, window in enumerate(text):
            engine.release(0)
            for begin in range(0, len(window), step):
                ids = window.inputs[begin : begin + step]
                rows = engine.forward([Slice(0, ids, begin, len(ids))])
                _check(rows, Position(number, begin))
                done += len(ids)
                told(done, total)
                yield rows
    finally:
        engine.release(0)


def _check(rows: Logits, at: Position) -> None:
    if np.isfinite(rows).all():
        return
    row = int(np.argmin(np.isfinite(rows).all(axis=1)))
    raise NumericError(
        f"logits are not numbers at position {at.index + row} of window {at.window} "
        f"({int((~np.isfinite(rows[row])).sum())} of {rows.shape[1]}): the weights or a kernel are damaged"
    )
