"""The table of embeddings of variant ``npu``, which the host looks up in a GGUF file: the source's rows as they are,
and of a package's blocks, which GGUF has no type for, what holds them exactly, or nearly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeinfer.converters.sources import Bytes, SourceTensor, TensorSource, pieces
from edgeinfer.converters.to_onnx.forms import OWN, Form, decoded
from edgeinfer.converters.to_onnx.requantize import values
from edgeinfer.gguf import TENSOR_TYPES
from edgeinfer.gguf.formats import TensorType
from edgeinfer.kernels.formats import FORMATS

__all__ = ["TABLE", "stored_table", "table_bytes"]

TABLE = "token_embd.gguf"
_NAME = "token_embd.weight"
_PIECE_BYTES = 8 << 20
_MOST = 65504.0

Read = Callable[[int, int], Bytes]


def stored_table(source: TensorSource) -> tuple[str, TensorType, Read]:
    """The tensor's name, its type in the file, and how some of its rows are read, from the first on and so many.

    Blocks of 32 weights with scales that halves hold are Q8_0, without another rounding. Others are halves, which cost
    a tenth of what 8 bits have cost already, and of what halves do not reach float32."""
    tensor = source.tensors[_NAME]
    if tensor.type not in OWN:
        return _NAME, _kind(tensor.type), lambda first, n_rows: source.rows(_NAME, first, n_rows)
    if _fits_q8_0(source, tensor):
        return _NAME, _kind("Q8_0"), lambda first, n_rows: _as_q8_0(tensor, source.rows(_NAME, first, n_rows))
    to = "F16" if _most(source, tensor) <= _MOST else "F32"
    return _NAME, _kind(to), lambda first, n_rows: _as_floats(tensor, to, source.rows(_NAME, first, n_rows))


def table_bytes(source: TensorSource) -> int:
    """Of the file's tensor, or slightly more."""
    tensor = source.tensors[_NAME]
    return tensor.n_rows * (4 * tensor.n_cols if tensor.type in OWN else tensor.row_bytes)


def _kind(name: str) -> TensorType:
    return next(kind for kind in TENSOR_TYPES.values() if kind.name == name)


def _fits_q8_0(source: TensorSource, tensor: SourceTensor) -> bool:
    if OWN[tensor.type] != Form(8, 32):
        return False
    for piece in pieces(tensor, _PIECE_BYTES):
        scales = decoded(tensor.type, source.rows(_NAME, *piece)).scales
        with np.errstate(over="ignore"):
            if not np.array_equal(scales.astype(np.float16).astype(np.float32), scales):
                return False
    return True


def _most(source: TensorSource, tensor: SourceTensor) -> float:
    found = (values(tensor.type, source.rows(_NAME, *piece)) for piece in pieces(tensor, _PIECE_BYTES))
    return max(float(np.abs(each).max(initial=0)) for each in found)


def _as_q8_0(tensor: SourceTensor, rows: Bytes) -> Bytes:
    parts = decoded(tensor.type, rows)
    scales = parts.scales.astype("<f2")[..., None].view(np.uint8)
    return np.concatenate([scales, parts.q ^ np.uint8(128)], axis=2).reshape(len(rows), -1)


def _as_floats(tensor: SourceTensor, to: str, rows: Bytes) -> Bytes:
    floats = np.ascontiguousarray(values(tensor.type, rows), "<f4")
    if to == "F32":
        return floats.view(np.uint8)
    return FORMATS[to].quantize_blocks(floats.reshape(-1, 1), None).reshape(len(rows), -1)
