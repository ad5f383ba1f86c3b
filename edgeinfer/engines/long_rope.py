"""Phi 3's two sets of factors for its rope: one for sequences up to a length, one for longer ones.

llama.cpp chooses by how many cells a sequence could have, which it rounds up to 256, and which all sequences share.
Here the context that a sequence may have decides, as with ONNX: a server of four such contexts answers like one."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp

from edgeinfer import gguf

__all__ = ["short_factors"]

_ARCHITECTURE = b"phi3"
_KEY = "phi3.rope.scaling.original_context_length"
_NEVER = (1 << 31) - 1
_FIRST_BYTES = 4096


def short_factors(path: Path, n_ctx: int) -> Any:
    """What llama.cpp must be told to take the factors for short sequences, for ``kv_overrides``; None where it may
    choose by itself: for other models, or a context beyond theirs. 0 is the model's own. Keep it until the model is
    loaded."""
    with path.open("rb") as stream:
        if _ARCHITECTURE not in stream.read(_FIRST_BYTES):  # every converter begins with the architecture's name
            return None
    metadata = gguf.read_structure(path).metadata
    n_ctx = n_ctx or metadata.integer("phi3.context_length", 0)
    if metadata.text("general.architecture", "") != "phi3" or not 0 < n_ctx <= metadata.integer(_KEY, 0):
        return None
    overrides = (llama_cpp.llama_model_kv_override * 2)()  # the second, without a name, ends it
    overrides[0].tag, overrides[0].key = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, _KEY.encode()
    overrides[0].value.val_i64 = _NEVER
    return ctypes.cast(overrides, ctypes.POINTER(llama_cpp.llama_model_kv_override))
