"""What is asked of a model's matrices: one quantization for all, and others for those whose names match a pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeinfer.converters.quantize.recipes import EMBEDDINGS_KEPT, matches
from edgeinfer.converters.sources import SourceTensor, TensorSource
from edgeinfer.converters.to_onnx.forms import FLOATS, KEPT, Form
from edgeinfer.converters.to_onnx.requantize import BLOCKS, Block, Quant, wanted
from edgeinfer.errors import UnsupportedQuant, UsageError

__all__ = ["FLOAT_QUANTS", "TENSOR_QUANTS", "FormOverride", "Mixture", "parse_form_override"]

FLOAT_QUANTS: Mapping[str, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
"""What a user writes -> the type."""
TENSOR_QUANTS: tuple[Quant, ...] = ("int4", "int8", "f16", "bf16", "f32", "keep")
_EXPERTS = ("ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight")


@dataclass(frozen=True, slots=True)
class FormOverride:
    """Matrices whose names match ``pattern`` get ``quant``."""

    pattern: str
    quant: Quant

    def __str__(self) -> str:
        return f"--tensor-type {self.pattern}={self.quant}"


def parse_form_override(text: str) -> FormOverride:
    """``attn_v=int8``. Raises `UsageError`."""
    pattern, _, name = text.rpartition("=")
    for quant in TENSOR_QUANTS:
        if pattern and name.lower() == quant:
            return FormOverride(pattern, quant)
    raise UsageError(
        f"--tensor-type {text!r} must be PATTERN=TYPE, such as 'attn_v=int8'; of ONNX types there are "
        f"{', '.join(TENSOR_QUANTS)}"
    )


@dataclass(frozen=True, slots=True)
class Mixture:
    """``quant``: of matrices that no override matches; of several that match, the first counts. ``block``: weights that
    share a scale in 4 bits, and have a zero point with ``zero_points``. Raises `UsageError` for blocks that there are
    not."""

    quant: Quant = "keep"
    block: Block = 32
    overrides: tuple[FormOverride, ...] = field(default=())
    zero_points: bool = False

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise UsageError(f"blocks of {self.block} weights are wanted; there are {', '.join(map(str, BLOCKS))}")

    def quant_of(self, name: str, tensor: SourceTensor) -> Quant:
        """What is asked of one matrix."""
        override = self._override(name, tensor)
        return override.quant if override else self.quant

    def form(self, name: str, tensor: SourceTensor) -> Form | None:
        """The form that a matrix gets; None: floats."""
        named = self._override(name, tensor) is not None
        quant = self.quant_of(name, tensor)
        return wanted(name, tensor, quant, self.block, by_name=named, zero_points=self.zero_points)

    def float_types(self, tensors: Mapping[str, SourceTensor]) -> dict[str, str]:
        """The tensors that are to be floats of a type, whatever they are. Vectors stay as they are: nobody gains from
        fewer bits of theirs."""
        asked = {name: self.quant_of(name, tensor) for name, tensor in tensors.items() if len(tensor.shape) > 1}
        return {name: FLOAT_QUANTS[quant] for name, quant in asked.items() if quant in FLOAT_QUANTS}

    def check(self, source: TensorSource) -> None:
        """Raise `UnsupportedQuant` that names every matrix whose blocks cannot be kept, where they should be, and
        `UsageError` for an override that cannot be, or does nothing."""
        self._check_overrides(source.tensors)
        if self.zero_points and "int4" not in (self.quant, *(override.quant for override in self.overrides)):
            raise UsageError("zero points are for int4; --quant int4 --zero-points has them")
        lost = [
            f"{name} ({tensor.type})"
            for name, tensor in source.tensors.items()
            if self.quant_of(name, tensor) == "keep" and tensor.type not in (*KEPT, *FLOATS)
        ]
        if lost:
            raise UnsupportedQuant(
                f"{source.label}: the blocks of these tensors have no form in ONNX Runtime: {', '.join(lost)}; "
                "--quant int8 rounds them to one that has"
            )

    def _override(self, name: str, tensor: SourceTensor) -> FormOverride | None:
        if len(tensor.shape) < 2 or name in EMBEDDINGS_KEPT:
            return None
        return next((override for override in self.overrides if matches(override.pattern, name)), None)

    def _check_overrides(self, tensors: Mapping[str, SourceTensor]) -> None:
        used = {name: override for name, tensor in tensors.items() if (override := self._override(name, tensor))}
        for override in self.overrides:
            if override not in used.values():
                raise UsageError(f"{override} matches no matrix that another has not taken; names are as in GGUF files")
        for name, override in used.items():
            tensor = tensors[name]
            if override.quant.startswith("int") and tensor.n_cols % BLOCKS[0]:
                raise UsageError(
                    f"{override}: {name} has rows of {tensor.n_cols}, which blocks of {BLOCKS[0]} do not fit"
                )
        for name in (name for name in used if name.endswith(_EXPERTS)):
            at = name.rpartition(".ffn_")[0]
            parts = {f"{at}.{part}": tensors[f"{at}.{part}"] for part in _EXPERTS if f"{at}.{part}" in tensors}
            if len({self._becomes_floats(part, tensor) for part, tensor in parts.items()}) > 1:
                raise UsageError(f"{used[name]}: experts are all floats or all blocks; give the three of {at} one type")

    def _becomes_floats(self, name: str, tensor: SourceTensor) -> bool:
        return self.quant_of(name, tensor) in FLOAT_QUANTS or (
            self.form(name, tensor) is None and tensor.type in FLOATS
        )
