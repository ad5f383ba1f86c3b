"""An engine without a model: replays given logits. For tests of everything above the engine, ours and our users', in
milliseconds.

The next token follows from what a sequence holds, through a function of its tokens, so that a scripted answer is the
same alone, in a batch, or resumed: just what a real engine promises."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgeinfer.engines.base import ForwardCancelled, Logits, Slice
from edgeinfer.errors import EngineError, FormatError

__all__ = ["ScriptedEngine", "cycle"]

Script = Callable[[Sequence[int]], "int | npt.NDArray[np.float32]"]
"""Tokens so far -> the next token's id, or its whole row of logits."""


def cycle(token_ids: Sequence[int], n_prompt: int) -> Script:
    """A script that answers any prompt of ``n_prompt`` tokens with ``token_ids``, over and over."""
    return lambda tokens: token_ids[(len(tokens) - n_prompt) % len(token_ids)]


class ScriptedEngine:
    """The `Engine` protocol over a script. ``step_s`` is slept per token computed, interruptibly, to stand for work."""

    def __init__(
        self,
        script: Script,
        *,
        n_vocab: int = 256,
        n_ctx: int = 4096,
        n_seq_max: int = 4,
        n_cells: int = 0,
        n_batch: int = 512,
        step_s: float = 0.0,
        block_size: int = 1,
    ) -> None:
        self.n_vocab, self.n_ctx, self.n_seq_max, self.n_batch = n_vocab, n_ctx, n_seq_max, n_batch
        self.n_cells = n_cells or n_ctx * n_seq_max
        self.block_size = block_size
        self.rewinds = True
        self.calls: list[list[Slice]] = []
        self.closed = False
        self.threads = (0, 0)
        self._script = script
        self._step_s = step_s
        self._interrupted = False
        self._sequences: list[list[int]] = [[] for _ in range(n_seq_max)]

    def forward(self, slices: Sequence[Slice]) -> Logits:
        self.calls.append(list(slices))
        if sum(len(part.token_ids) for part in slices) > self.n_batch:
            raise EngineError(f"a forward pass takes at most {self.n_batch} tokens")
        for part in slices:
            if part.n_past != len(self._sequences[part.seq]) or part.n_past + len(part.token_ids) > self.n_ctx:
                raise EngineError(f"sequence {part.seq} does not hold {part.n_past} tokens, or is full")
        self._work(slices)
        rows = [row for part in slices for row in self._run(part)]
        return np.stack(rows) if rows else np.empty((0, self.n_vocab), np.float32)

    def _work(self, slices: Sequence[Slice]) -> None:
        for _ in range(sum(len(part.token_ids) for part in slices) if self._step_s else 0):
            time.sleep(self._step_s)
            if self._interrupted:
                raise ForwardCancelled
        if self._interrupted:
            raise ForwardCancelled

    def _run(self, part: Slice) -> list[npt.NDArray[np.float32]]:
        held = self._sequences[part.seq]
        rows = []
        for i, token_id in enumerate(part.token_ids):
            held.append(int(token_id))
            if i >= len(part.token_ids) - part.n_logits:
                rows.append(self._row(held))
        return rows

    def _row(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        scripted = self._script(tokens)
        if isinstance(scripted, np.ndarray):
            return scripted.astype(np.float32)
        row = np.zeros(self.n_vocab, np.float32)
        row[scripted] = 10.0
        return row

    def embed(self, seq: int, token_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        self.release(seq)
        self._work([Slice(seq, token_ids, 0)])
        return np.stack([np.eye(8, dtype=np.float32)[int(token_id) % 8] for token_id in token_ids])

    def length(self, seq: int) -> int:
        return len(self._sequences[seq])

    def truncate(self, seq: int, n_tokens: int) -> int:
        del self._sequences[seq][max(n_tokens, 0) :]
        return len(self._sequences[seq])

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        self._sequences[target] = self._sequences[source][:n_tokens]
        return len(self._sequences[target])

    def release(self, seq: int) -> None:
        self._sequences[seq] = []

    def export_sequence(self, seq: int) -> memoryview:
        return memoryview(np.array(self._sequences[seq], np.int32).tobytes())

    def import_sequence(self, seq: int, state: memoryview, n_tokens: int) -> None:
        self.release(seq)
        if len(state) != 4 * n_tokens:
            raise FormatError(f"a saved sequence of {n_tokens} tokens has {len(state)} bytes")
        self._sequences[seq] = np.frombuffer(state, np.int32).tolist()

    def interrupt(self, on: bool) -> None:
        self._interrupted = on

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        self.threads = (n_threads, n_threads_batch)

    def close(self) -> None:
        self.closed = True
