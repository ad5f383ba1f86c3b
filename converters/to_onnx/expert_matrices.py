"""Experts' matrices as `MoE` and `QMoE` want them: all experts of a layer in one, and of each the rows of gate and up
in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeinfer.converters.sources import Bytes
from edgeinfer.converters.to_onnx.data_file import Region
from edgeinfer.converters.to_onnx.forms import FLOATS, Form, Parts
from edgeinfer.converters.to_onnx.requantize import values
from edgeinfer.converters.to_onnx.weights import FLOAT_TYPES, Weights
from edgeinfer.onnx.package import TensorForm

__all__ = ["ExpertMatrices", "ExpertMatrix"]

Floats = npt.NDArray[np.float32]
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExpertMatrix:
    """As initializers: of ``bits`` 4 and 8, ``q`` uint8 (experts, rows, bytes of a row) and ``scales`` (experts, rows,
    blocks); of 32, ``q`` are floats (experts, rows, columns) and ``scales`` None. ``block``: weights under a scale."""

    q: ir.Value
    scales: ir.Value | None
    bits: int
    block: int


class ExpertMatrices:
    """Weights around zero are kept as they are where the operator has their bits; formats with least values, which it
    has no place for, are rounded to 8 bits."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def layer(self, at: str, n_experts: int) -> tuple[ExpertMatrix, ExpertMatrix]:
        """Gate with up, and down, of the layer whose tensors begin with ``at``."""
        gate, up, down = (f"{at}.ffn_{part}_exps.weight" for part in ("gate", "up", "down"))
        forms = {name: self._form(name) for name in (gate, up, down)}
        first, last = (f"{at}.ffn_gate_up_exps.weight", (gate, up)), (f"{at}.ffn_down_exps.weight", (down,))
        known = [form for form in forms.values() if form is not None]
        if len(known) < len(forms):
            return self._floats(*first, n_experts), self._floats(*last, n_experts)
        block = min(form.block for form in known)

        def made(name: str, parts: Names) -> ExpertMatrix:
            bits: Literal[4, 8] = 8 if any(forms[part] != Form(4, 32) for part in parts) else 4
            return self._blocks(name, {part: forms[part] or known[0] for part in parts}, bits, block, n_experts)

        return made(*first), made(*last)

    def _form(self, name: str) -> Form | None:
        tensor, form = self._weights.matrix(name)
        if form is None and tensor.type in FLOATS:
            return None
        if form is None or form.corrected:
            form = Form(8, 32)
            self._weights.tensors[name] = TensorForm(tensor.type, "nbits8", 32)
        return form

    def _floats(self, name: str, parts: Names, n_experts: int) -> ExpertMatrix:
        tensors = [self._weights.matrix(part)[0] for part in parts]
        kinds = {tensor.type for tensor in tensors}
        kind = next(iter(kinds)) if len(kinds) == 1 and kinds <= {*FLOATS} else "F32"
        n_rows, n_cols = tensors[0].n_rows, tensors[0].n_cols
        shape = (n_experts, len(parts) * n_rows // n_experts, n_cols)
        region = self._weights.data.room(name, FLOAT_TYPES[kind], shape)

        def rows(part: str, tensor_kind: str) -> Iterator[Bytes]:
            for _, raw in self._weights.raw_pieces(part):
                yield raw if tensor_kind == kind else np.ascontiguousarray(values(tensor_kind, raw)).view(np.uint8)

        _in_turn(region, [rows(part, tensor.type) for part, tensor in zip(parts, tensors, strict=True)])
        for part, tensor in zip(parts, tensors, strict=True):
            self._weights.tensors[part] = TensorForm(tensor.type, "float", 0)
            self._weights.measures.floats(tensor)
        return ExpertMatrix(region.value, None, 32, 0)

    def _blocks(self, name: str, forms: dict[str, Form], bits: int, block: int, n_experts: int) -> ExpertMatrix:
        parts = tuple(forms)
        tensor = self._weights.matrix(parts[0])[0]
        n_rows, n_cols = len(parts) * tensor.n_rows // n_experts, tensor.n_cols
        room = self._weights.data.room
        q = room(f"{name}.q", ir.DataType.UINT8, (n_experts, n_rows, n_cols * bits // 8))
        scales = room(f"{name}.scales", ir.DataType.FLOAT, (n_experts, n_rows, n_cols // block))
        for region, which in ((q, 0), (scales, 1)):
            _in_turn(region, [self._adapted(part, forms[part], bits, block, which) for part in parts])
        for part in parts:
            self._weights.measures.stored(self._weights.matrix(part)[0], forms[part], 1)
            self._weights.tensors[part] = TensorForm(tensor.type, f"nbits{bits}", block)
        return ExpertMatrix(q.value, scales.value, bits, block)

    def _adapted(self, part: str, form: Form, bits: int, block: int, which: int) -> Iterator[Bytes]:
        for _, found in self._weights.part_pieces(part, form):
            yield _as(found, form, bits, block)[which]


def _as(parts: Parts, form: Form, bits: int, block: int) -> tuple[Bytes, Bytes]:
    """Rows in a form with as many bits or more, and blocks as long or shorter: (weights, scales) as bytes."""
    q = parts.q.reshape(len(parts.q), -1)
    if form.bits < bits:
        q = np.stack([q & 15, q >> 4], axis=-1).reshape(len(q), -1) + np.uint8(120)  # 8 stands for 0, and then 128
    scales = np.repeat(parts.scales, form.block // block, axis=1)
    return q, np.ascontiguousarray(scales).view(np.uint8)


def _in_turn(region: Region, parts: list[Iterator[Bytes]]) -> None:
    """Write the first row of each part, then the second of each, and so on. Parts come in equal pieces of rows."""
    at = 0
    for rows in zip(*parts, strict=True):
        mixed = np.stack(rows, axis=1)
        region.write(mixed, at)
        at += mixed.nbytes
