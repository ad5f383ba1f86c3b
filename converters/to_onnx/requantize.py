"""Which form a matrix gets: its source's, or where the user asked for it one that it is rounded to. Which matrix is
asked for what is said by `mixture`."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.sources import Bytes, SourceTensor
from edgeinfer.converters.to_onnx.forms import KEPT, OWN, Form, restored
from edgeinfer.gguf.formats import TENSOR_TYPES
from edgeinfer.kernels.formats import FORMATS
from edgeinfer.onnx.package import STATIC_MODES

__all__ = ["BLOCKS", "Block", "Quant", "values", "wanted"]

Floats = npt.NDArray[np.float32]
Quant = Literal["keep", "f32", "f16", "bf16", "int4", "int8", "int8-dynamic", "int4-static", "int8-static"]
"""`edgeinfer.onnx.package.MODES` for the type checker. ``int8`` and ``int8-dynamic`` have the same weights; which it is
says how the engine takes their inputs."""
_FLOATS: tuple[Quant, ...] = ("f32", "f16", "bf16")
_ROUTERS = "ffn_gate_inp.weight"  # small, and one that chooses other experts is worth more than its bits
_EXPERTS = "_exps.weight"
_TABLES = ("token_embd.weight", "output.weight")
Block = Literal[32, 64, 128]
BLOCKS: tuple[Block, ...] = (32, 64, 128)


def wanted(
    name: str,
    tensor: SourceTensor,
    quant: Quant,
    block: Block = 32,
    *,
    by_name: bool = False,
    zero_points: bool = False,
) -> Form | None:
    """The form of a matrix, None for floats as they are. Exact forms stay where they are no larger than what is asked
    for; the table of embeddings and the head stay at 8 bits in blocks of 32, as they suffer most from less, and routers
    stay as they are, unless the tensor itself was asked for, ``by_name``. Rows that blocks of ``block`` do not cut
    evenly get the next smaller ones. Of 4 bits, only products of rows have ``zero_points``, as no table and no experts'
    operator takes them. Weights of 8 bits that are multiplied by integers have one scale a row, whatever
    they were."""
    kept = KEPT.get(tensor.type)
    if quant == "keep":
        return kept
    if quant in _FLOATS:
        return None
    if name.endswith(_ROUTERS) and not by_name:
        return kept
    uneven = tensor.n_cols % BLOCKS[0] != 0
    four = quant in ("int4", "int4-static") and (name not in _TABLES or by_name)
    bits: Literal[4, 8] = 4 if four else 8
    if quant in STATIC_MODES and (bits == 8 or uneven):
        return Form(8, tensor.n_cols, whole_rows=True)
    if uneven:
        return kept
    zero_points = zero_points and name != _TABLES[0] and not name.endswith(_EXPERTS)
    if kept is not None and not kept.corrected and kept.bits <= bits and (bits == 8 or zero_points >= kept.zero_points):
        return kept
    if bits == 8:
        return Form(8, 32)
    size = next(size for size in reversed(BLOCKS) if size <= block and tensor.n_cols % size == 0)
    return Form(4, size, zero_points=zero_points)


def values(type_name: str, rows: Bytes) -> Floats:
    """What rows of blocks stand for, float32 ``(rows, columns)``."""
    if type_name == "F32":
        return rows.view("<f4")
    if type_name in OWN:
        return restored(type_name, rows)
    if type_name not in FORMATS:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        found: Floats = dequantize(rows, GGMLQuantizationType[type_name])
        return found
    kind = next(kind for kind in TENSOR_TYPES.values() if kind.name == type_name)
    blocks = FORMATS[type_name].dequantize_blocks(rows.reshape(-1, kind.block_bytes))
    return blocks.reshape(len(rows), -1)
