"""The bytes of a saved sequence: a header that says what they are, and the state itself.

    8 bytes   "eiORTkv1"
    32 bytes  SHA-256 of the layout in words
    8 bytes   tokens, little-endian
    8 bytes   bytes that follow, little-endian

Knows no engine; whether the tokens are the right ones is its caller's business.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import FormatError

__all__ = ["packed", "unpacked"]

_MAGIC = b"eiORTkv1"
_HEADER = struct.Struct("<8s32sQQ")

Bytes = npt.NDArray[np.uint8]


def packed(state: Bytes, n_tokens: int, layout: str) -> memoryview:
    """A state with its header."""
    whole = np.empty(_HEADER.size + state.size, np.uint8)
    header = _HEADER.pack(_MAGIC, hashlib.sha256(layout.encode()).digest(), n_tokens, state.size)
    whole[: _HEADER.size] = np.frombuffer(header, np.uint8)
    whole[_HEADER.size :] = state
    return whole.data


def unpacked(whole: memoryview, n_tokens: int, layout: str) -> Bytes:
    """The state, a view. Raises `FormatError` for one of another engine, model, layout or length."""
    data = np.frombuffer(whole, np.uint8)
    if data.size < _HEADER.size:
        raise FormatError("a saved sequence is not one of this model: it is shorter than its header")
    magic, digest, n_saved, n_bytes = _HEADER.unpack(data[: _HEADER.size].tobytes())
    if magic != _MAGIC or digest != hashlib.sha256(layout.encode()).digest():
        raise FormatError("a saved sequence is not one of this model: another engine, layout or model made it")
    if n_saved != n_tokens or n_bytes != data.size - _HEADER.size:
        raise FormatError(
            f"a saved sequence is not one of this model: it has {n_saved} tokens in {data.size} bytes, not {n_tokens}"
        )
    return data[_HEADER.size :]
