"""ONNX packages through ONNX Runtime: sequences, lengths and what is refused. What computes, and where keys and values
lie, is one of three (`ort_buffers`, `ort_pool`, `ort_static`); this chooses it by device and package.

Knows nothing of text, requests or sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.engines import ort_state
from edgeinfer.engines.base import EngineConfig, ForwardCancelled, Logits, Slice
from edgeinfer.engines.ort_placement import Placement
from edgeinfer.engines.ort_session import Stop
from edgeinfer.engines.pieces import pieces
from edgeinfer.errors import EngineError, FormatError
from edgeinfer.onnx.package import Package

__all__ = ["Computer", "OrtEngine"]

Floats = npt.NDArray[np.float32]


class Computer(Protocol):
    """A model's graphs and the memory of its sequences. Positions and lengths are those of its caller, who has checked
    them: what lies in memory beyond them means nothing."""

    n_embd: int
    n_cells: int
    block_size: int
    """As `Engine.block_size`; slices are cut at its multiples before they come here."""
    together: bool
    """Whether slices of several sequences are computed in one pass. Where not, they come one by one."""
    layout: str
    """In words, whatever the bytes of a state depend on."""
    placement: Placement | None

    def forward(self, slices: Sequence[Slice]) -> Logits:
        """The wanted rows, shape ``(sum of n_logits, n_vocab)``, valid until the next call. Raises `ForwardCancelled`,
        `EngineError`."""
        ...

    def hidden(self, part: Slice) -> Floats:
        """Hidden states of the slice after the last norm, shape ``(n_tokens, n_embd)``, valid until the next call."""
        ...

    def cut(self, seq: int, n_tokens: int) -> None:
        """The sequence is no longer than this; 0 frees what it holds."""
        ...

    def fork(self, source: int, target: int, n_tokens: int) -> None:
        """``target``, which holds nothing, gets the first tokens of ``source``."""
        ...

    def take(self, seq: int, n_tokens: int) -> npt.NDArray[np.uint8]:
        """The state of so many tokens, as bytes of its own."""
        ...

    def put(self, seq: int, state: npt.NDArray[np.uint8], n_tokens: int) -> bool:
        """Take a state back into a sequence that holds nothing; False for one of another size."""
        ...

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None: ...

    def close(self) -> None: ...


class OrtEngine:
    """The `Engine` protocol over a `Computer`, which it owns. ``stop`` is the flag that the computer's runs obey."""

    def __init__(
        self, package: Package, config: EngineConfig, computer: Computer, stop: Stop, notices: Sequence[str] = ()
    ) -> None:
        self._computer = computer
        self._stop = stop
        self._closed = False
        self.notices = tuple(notices)
        self.placement = computer.placement
        """Where the graph's nodes lie; None where ONNX Runtime does not tell."""
        self.n_vocab = package.hyperparameters.n_vocab
        self.n_embd = computer.n_embd
        self.n_ctx = config.n_ctx or package.hyperparameters.n_ctx_train
        self.n_seq_max = config.n_seq_max
        self.n_cells = computer.n_cells
        self.block_size = computer.block_size
        self.n_batch = min(max(config.n_batch, self.block_size), self.n_cells)
        self.rewinds = True
        self._lengths = [0] * config.n_seq_max

    # ---- computing

    def forward(self, slices: Sequence[Slice]) -> Logits:
        self._check(slices)
        try:
            if self._computer.together:
                return self._pass(slices)
            return self._one_by_one(slices)
        except (ForwardCancelled, EngineError):
            for part in slices:
                self.truncate(part.seq, part.n_past)
            raise

    def _one_by_one(self, slices: Sequence[Slice]) -> Logits:
        if self.block_size == 1:
            cut = list(slices)
        else:
            cut = [piece for part in slices for piece in pieces(part, self.block_size)]
        if len(cut) == 1:
            return self._pass(cut)
        rows = np.empty((sum(part.n_logits for part in slices), self.n_vocab), np.float32)
        begin = 0
        for piece in cut:
            rows[begin : begin + piece.n_logits] = self._pass([piece])
            begin += piece.n_logits
        return rows

    def _pass(self, slices: Sequence[Slice]) -> Logits:
        if self._stop.raised:
            raise ForwardCancelled
        rows = self._computer.forward(slices)
        for part in slices:
            self._lengths[part.seq] = part.n_past + len(part.token_ids)
        return rows

    def embed(self, seq: int, token_ids: npt.NDArray[np.int32]) -> Floats:
        states = np.empty((len(token_ids), self.n_embd), np.float32)
        self.release(seq)
        try:
            for begin in range(0, len(token_ids), self.n_batch):
                part = Slice(seq, token_ids[begin : begin + self.n_batch], begin, 0)
                self._check([part])
                if self._stop.raised:
                    raise ForwardCancelled
                states[begin : begin + len(part.token_ids)] = self._computer.hidden(part)
                self._lengths[seq] = begin + len(part.token_ids)
        finally:
            self.release(seq)
        return states

    def interrupt(self, on: bool) -> None:
        self._stop.set(on)

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        self._computer.set_threads(n_threads, n_threads_batch)

    def _check(self, slices: Sequence[Slice]) -> None:
        """Refuse what kernels would not notice."""
        if sum(len(part.token_ids) for part in slices) > self.n_batch:
            raise EngineError(f"a forward pass takes at most {self.n_batch} tokens")
        for part in slices:
            n, ids = len(part.token_ids), part.token_ids
            if not 0 <= part.seq < self.n_seq_max or part.n_past != self._lengths[part.seq]:
                raise EngineError(f"sequence {part.seq} does not hold {part.n_past} tokens")
            if not 0 < n <= self.n_ctx - part.n_past or not 0 <= part.n_logits <= n:
                raise EngineError(f"a slice of {n} tokens at {part.n_past} does not fit a context of {self.n_ctx}")
            if ids.min() < 0 or ids.max() >= self.n_vocab:
                raise EngineError(f"a token id lies outside the vocabulary of {self.n_vocab}")

    # ---- sequences

    def length(self, seq: int) -> int:
        return self._lengths[seq]

    def truncate(self, seq: int, n_tokens: int) -> int:
        self._lengths[seq] = max(0, min(self._lengths[seq], n_tokens))
        self._computer.cut(seq, self._lengths[seq])
        return self._lengths[seq]

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        self.release(target)
        n_tokens = max(0, min(n_tokens, self._lengths[source]))
        if n_tokens:
            self._computer.fork(source, target, n_tokens)
            self._lengths[target] = n_tokens
        return n_tokens

    def release(self, seq: int) -> None:
        self._lengths[seq] = 0
        self._computer.cut(seq, 0)

    def export_sequence(self, seq: int) -> memoryview:
        n_tokens = self._lengths[seq]
        return ort_state.packed(self._computer.take(seq, n_tokens), n_tokens, self._computer.layout)

    def import_sequence(self, seq: int, state: memoryview, n_tokens: int) -> None:
        self.release(seq)
        if not 0 < n_tokens <= self.n_ctx:
            raise FormatError(f"a saved sequence of {n_tokens} tokens does not fit a context of {self.n_ctx}")
        body = ort_state.unpacked(state, n_tokens, self._computer.layout)
        if not self._computer.put(seq, body, n_tokens):
            self._computer.cut(seq, 0)
            raise FormatError("a saved sequence is not one of this model: it has another size")
        self._lengths[seq] = n_tokens

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._computer.close()
