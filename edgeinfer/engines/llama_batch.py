"""The arrays of a llama.cpp batch as NumPy arrays: written slice by slice, never token by token.

Owns the memory that `llama_decode` reads. Knows nothing of models or contexts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgeinfer.engines.base import Slice
from edgeinfer.engines.token_table import TokenTable

__all__ = ["LlamaBatch"]


def _pointer(array: npt.NDArray[np.generic], kind: type) -> object:
    return array.ctypes.data_as(ctypes.POINTER(kind))


class LlamaBatch:
    """A reusable batch of up to ``n_tokens_max`` tokens, each of one sequence. With a ``table``, llama.cpp is given the
    tokens' rows of it instead of their ids."""

    def __init__(self, n_tokens_max: int, table: TokenTable | None = None) -> None:
        self._table = table
        self._embd = np.zeros((n_tokens_max, table.n_embd) if table else (0, 0), np.float32)
        self._token = np.zeros(n_tokens_max, np.int32)
        self._pos = np.zeros(n_tokens_max, np.int32)
        self._n_seq = np.ones(n_tokens_max, np.int32)
        self._seq = np.zeros(n_tokens_max, np.int32)
        self._want = np.zeros(n_tokens_max, np.int8)
        # llama.cpp wants for each token a pointer to its list of sequences; each list here is one cell of `_seq`.
        self._seq_pointers = self._seq.ctypes.data + np.arange(n_tokens_max, dtype=np.uint64) * np.uint64(4)
        self._positions = np.arange(n_tokens_max, dtype=np.int32)
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=None if table else _pointer(self._token, ctypes.c_int32),
            embd=_pointer(self._embd, ctypes.c_float) if table else None,
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._n_seq, ctypes.c_int32),
            seq_id=ctypes.cast(self._seq_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=_pointer(self._want, ctypes.c_int8),
        )

    def fill(self, slices: Sequence[Slice]) -> int:
        """Write the slices one after another; returns the number of logit rows they ask for. They must fit (see
        `n_tokens_max`)."""
        begin = n_rows = 0
        for part in slices:
            n = len(part.token_ids)
            end = begin + n
            if n == 1:  # decoding: no arrays
                self._token[begin], self._pos[begin] = part.token_ids[0], part.n_past
                self._seq[begin], self._want[begin] = part.seq, part.n_logits
            else:
                self._token[begin:end] = part.token_ids
                np.add(self._positions[:n], part.n_past, out=self._pos[begin:end])
                self._seq[begin:end] = part.seq
                self._want[begin : end - part.n_logits] = 0
                self._want[end - part.n_logits : end] = 1
            begin, n_rows = end, n_rows + part.n_logits
        if self._table is not None:
            self._table.read(self._token[:begin], self._embd[:begin])
        self.struct.n_tokens = begin
        return n_rows
