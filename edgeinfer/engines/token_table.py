"""A model's table of token embeddings, read row by row from its file. Knows no engine and no context.

It lets an engine read every token of a vocabulary though its own file holds only some of them: a draft model with a
trimmed head looks its inputs up here.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgeinfer import kernels
from edgeinfer.errors import UnsupportedModel, UnsupportedQuant
from edgeinfer.gguf import GGUFFile
from edgeinfer.kernels.formats import FORMATS

__all__ = ["ARCHITECTURES", "TokenTable"]

_NAME = "token_embd.weight"
_SCALES = {"llama": False, "qwen2": False, "qwen3": False, "gemma3": True}
"""Architectures whose graphs take embeddings for tokens, and whether llama.cpp multiplies those of tokens, and of
tokens alone, by sqrt(n_embd)."""

ARCHITECTURES = frozenset(_SCALES)
"""Those whose tokens can be read through a table: llama.cpp computes the same from embeddings as from tokens."""


class TokenTable:
    """What each token of ``file`` is to its model: float32 rows of ``n_embd``, one for each of ``n_vocab`` tokens.

    The file is mapped, and only the rows that are asked for are read. ``scale``: what the model multiplies rows by;
    where it is not given, that of an architecture in `ARCHITECTURES`. Raises `UnsupportedModel` for an architecture
    that is not known to take embeddings for tokens, `UnsupportedQuant` for a table of a type that we do not decode,
    `BackendUnavailable` without our library.
    """

    def __init__(self, file: GGUFFile, scale: float | None = None) -> None:
        if scale is None and file.architecture not in _SCALES:
            known = ", ".join(_SCALES)
            raise UnsupportedModel(f"{file.path.name} is of architecture {file.architecture}, not one of {known}")
        tensor = file.tensors.get(_NAME)
        if tensor is None:
            raise UnsupportedModel(f"{file.path.name} has no {_NAME}")
        kind = tensor.type.name
        if kind != "F32" and kind not in FORMATS:
            raise UnsupportedQuant(f"{file.path.name}: {_NAME} is of type {kind}, which we do not decode")
        self.n_embd, self.n_vocab = tensor.shape
        self._decode = None if kind == "F32" else kernels.row_decoder(kind, self.n_embd)
        shape = (self.n_vocab, tensor.n_bytes // self.n_vocab)
        self._blocks = np.asarray(np.memmap(tensor.path, np.uint8, "r", tensor.offset, shape))
        self._address = self._blocks.ctypes.data
        if scale is None:
            scale = math.sqrt(self.n_embd) if _SCALES[file.architecture] else 1.0
        self._scale = np.float32(scale) if scale != 1.0 else None

    def read(self, token_ids: npt.NDArray[np.int32], out: npt.NDArray[np.float32]) -> None:
        """Write the rows of these tokens to ``out``, float32 ``(len(token_ids), n_embd)``, contiguous. The ids are in
        range: nothing is checked."""
        if self._decode is None:
            out[:] = self._blocks[token_ids].view(np.float32)
        else:
            # One token is the usual case, and each microsecond of it is one of drafting.
            blocks, row_bytes, to = self._address, self._blocks.shape[1], out.ctypes.data
            for token_id in token_ids.tolist():
                self._decode(blocks + token_id * row_bytes, to)
                to += 4 * self.n_embd
        if self._scale is not None:
            out *= self._scale
