"""Which form a matrix gets: its source's, or where the user asked for it one that it is rounded to."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.sources import Bytes, SourceTensor, TensorSource
from edgeinfer.converters.to_onnx.forms import FLOATS, KEPT, Form
from edgeinfer.errors import UnsupportedQuant
from edgeinfer.gguf.formats import TENSOR_TYPES
from edgeinfer.kernels.formats import FORMATS

__all__ = ["BLOCKS", "QUANTS", "Block", "Quant", "check_quant", "values", "wanted"]

Floats = npt.NDArray[np.float32]
Quant = Literal["keep", "int4", "int8"]
QUANTS: tuple[Quant, ...] = ("keep", "int4", "int8")
_TABLES = ("token_embd.weight", "output.weight")
Block = Literal[32, 64, 128]
BLOCKS: tuple[Block, ...] = (32, 64, 128)


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


def wanted(name: str, tensor: SourceTensor, quant: Quant, block: Block = 32) -> Form | None:
    """The form of a matrix, None for floats as they are. Exact forms stay where they are no larger than what is asked
    for; the table of embeddings and the head stay at 8 bits in blocks of 32, as they suffer most from less. Rows that
    blocks of ``block`` do not cut evenly get the next smaller ones. `check_quant` comes first."""
    kept = KEPT.get(tensor.type)
    if quant == "keep":
        return kept
    if tensor.n_cols % BLOCKS[0]:
        return None
    bits: Literal[4, 8] = 8 if quant == "int8" or name in _TABLES else 4
    if kept is not None and not kept.corrected and kept.bits <= bits:
        return kept
    if bits == 8:
        return Form(8, 32)
    return Form(4, next(size for size in reversed(BLOCKS) if size <= block and tensor.n_cols % size == 0))


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
