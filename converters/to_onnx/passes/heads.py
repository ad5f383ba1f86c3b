"""Heads of sizes that kernels of attention do not take, with zeros between their elements so that they do. Zeros add
nothing to scores, and are left out of what is attended to."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.architectures.decoder import HeadSpace
from edgeinfer.converters.to_onnx.graph import Nodes, constant

__all__ = ["gathered", "spread"]


def spread(
    x: ir.Value | None, space: HeadSpace, n_heads: int, name: str, add: Nodes, *, rotated: bool = True
) -> ir.Value:
    """(1, tokens, heads * dim) as (1, tokens, heads * room); of what is ``rotated`` each half has room of its own."""
    if x is None:
        raise ValueError(f"{name} has no input")
    if not space.padded:
        return x
    x = add.reshape(x, [0, 0, n_heads, space.dim], f"{name}.split")
    if not rotated:
        x = _padded(x, space.room - space.dim, f"{name}.spread", add)
        return add.reshape(x, [0, 0, n_heads * space.room], name)
    rest, room = space.dim - 2 * space.half, space.room - 2 * space.half_room
    lengths = [space.half, space.half, *([rest] if rest else [])]
    names = [f"{name}.part{i}" for i in range(len(lengths))]
    sizes = constant("lengths." + ".".join(map(str, lengths)), np.array(lengths))
    add("Split", x, sizes, name=f"{name}.parts", outputs=names, axis=-1)
    parts, more = add.last().outputs, [space.half_room - space.half] * 2 + [room - rest]
    spread_parts = [_padded(part, n, f"{part.name}.spread", add) for part, n in zip(parts, more, strict=False)]
    if not rest and room:
        spread_parts[1] = _padded(spread_parts[1], room, f"{name}.end", add)
    x = add("Concat", *spread_parts, name=f"{name}.spread", axis=-1)
    return add.reshape(x, [0, 0, n_heads * space.room], name)


def gathered(x: ir.Value, space: HeadSpace, n_heads: int, name: str, add: Nodes) -> ir.Value:
    """(1, tokens, heads * room), of heads that are not rotated, as (1, tokens, heads * dim)."""
    if not space.padded:
        return x
    x = add.reshape(x, [0, 0, n_heads, space.room], f"{name}.wide")
    ends = [constant(f"{which}.{n}", np.array([n])) for which, n in (("from", 0), ("to", space.dim), ("axis", 3))]
    x = add("Slice", x, *ends, name=f"{name}.narrow")
    return add.reshape(x, [0, 0, n_heads * space.dim], f"{name}.narrowed")


def _padded(x: ir.Value, n: int, name: str, add: Nodes) -> ir.Value:
    """With ``n`` zeros behind the last axis of four."""
    if not n:
        return x
    return add("Pad", x, constant(f"zeros.{n}", np.array([0] * 7 + [n])), name=name)
