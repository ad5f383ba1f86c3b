"""Which form a matrix gets, and rounding to a form that its source does not have: only where the user asked for it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.sources import Bytes, SourceTensor, TensorSource
from edgeinfer.converters.to_onnx.forms import FLOATS, KEPT, Form, Parts
from edgeinfer.errors import UnsupportedQuant
from edgeinfer.gguf.formats import TENSOR_TYPES
from edgeinfer.kernels.formats import FORMATS

__all__ = ["QUANTS", "Quant", "check_quant", "requantized", "values", "wanted"]

Floats = npt.NDArray[np.float32]
Quant = Literal["keep", "f32", "f16", "bf16", "int4", "int8"]
QUANTS: tuple[Quant, ...] = ("keep", "f32", "f16", "bf16", "int4", "int8")
_FLOATS: tuple[Quant, ...] = ("f32", "f16", "bf16")
_ROUTERS = "ffn_gate_inp.weight"  # small, and one that chooses other experts is worth more than its bits
_TABLES = ("token_embd.weight", "output.weight")
_BLOCK: Literal[32] = 32
_MOST = np.float32(65504)


def check_quant(source: TensorSource, quant: Quant) -> None:
    """Raises `UnsupportedQuant` that names every matrix whose blocks cannot be kept, where they should be."""
    lost = [
        f"{name} ({tensor.type})"
        for name, tensor in source.tensors.items()
        if quant == "keep" and tensor.type not in (*KEPT, *FLOATS)
    ]
    if lost:
        raise UnsupportedQuant(
            f"{source.label}: the blocks of these tensors have no form in ONNX Runtime: {', '.join(lost)}; "
            "--quant int8 rounds them to one that has"
        )


def wanted(name: str, tensor: SourceTensor, quant: Quant) -> Form | None:
    """The form of a matrix, None for floats as they are. Exact forms stay where they are no larger than what is asked
    for; the table of embeddings and the head stay at 8 bits, as they suffer most from 4. `check_quant` comes first."""
    kept = KEPT.get(tensor.type)
    if quant == "keep":
        return kept
    if quant in _FLOATS or name.endswith(_ROUTERS):
        return None
    if tensor.n_cols % _BLOCK:
        return None
    bits: Literal[4, 8] = 8 if quant == "int8" or name in _TABLES else 4
    if kept is not None and not kept.corrected and kept.bits <= bits:
        return kept
    return Form(bits, _BLOCK)


def values(type_name: str, rows: Bytes) -> Floats:
    """What rows of blocks stand for, float32 ``(rows, columns)``."""
    if type_name == "F32":
        return rows.view("<f4")
    if type_name not in FORMATS:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        found: Floats = dequantize(rows, GGMLQuantizationType[type_name])
        return found
    kind = next(kind for kind in TENSOR_TYPES.values() if kind.name == type_name)
    blocks = FORMATS[type_name].dequantize_blocks(rows.reshape(-1, kind.block_bytes))
    return blocks.reshape(len(rows), -1)


def requantized(rows: Floats, form: Form) -> tuple[Parts, Floats]:
    """Rows rounded to the nearest step, and what they became. The weight that is farthest from 0 gets the end of the
    range, which for 4 bits is the longer one. Scales have half precision, so that blocks of GGUF can be made again."""
    blocks = rows.reshape(len(rows), -1, _BLOCK)
    ends = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    middle, scales = (8, ends / np.float32(-8)) if form.bits == 4 else (128, np.abs(ends) / np.float32(127))
    scales = np.clip(scales, -_MOST, _MOST).astype(np.float16).astype(np.float32)
    divisors = np.where(scales == 0, np.float32(1), scales)
    steps = np.clip(np.rint(blocks / divisors), -middle, middle - 1)
    got = (steps * scales).reshape(rows.shape)
    q = (steps.astype(np.int16) + middle).astype(np.uint8)
    if form.bits == 4:
        q = q[..., 0::2] | q[..., 1::2] << 4
    return Parts(q, scales[..., 0]), got
