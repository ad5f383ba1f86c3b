"""Which type each tensor of a model gets under a name such as Q4_K_M.

The layouts are llama.cpp's, so that builds of either quantizer are of one size: the output head in more bits than the
rest, and in the M mixes also what feeds V and the way back into the stream, in some of the layers.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeinfer.errors import UsageError
from edgeinfer.gguf import TENSOR_TYPES, TensorType

__all__ = [
    "EMBEDDINGS_KEPT",
    "FILE_TYPES",
    "OUR_TYPES",
    "Layout",
    "Override",
    "matches",
    "parse_override",
    "parse_quant",
    "tensor_type",
]

FILE_TYPES: Mapping[str, int] = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12,
    "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ2_XXS": 19, "IQ2_XS": 20,
    "Q2_K_S": 21, "IQ3_XS": 22, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27, "IQ2_S": 28,
    "IQ2_M": 29, "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38,
}  # fmt: skip
"""What files can be made, with the number that llama.cpp has for each (llama_ftype)."""

OUR_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K",
    "IQ4_NL",
)  # fmt: skip
"""Those that our quantizers make."""

_ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M", "FP16": "F16", "FP32": "F32", "INT8": "Q8_0"}
_ALIASES |= {"INT4": "Q4_K_M"}
_BY_NAME = {kind.name: kind for kind in TENSOR_TYPES.values()}
_BASE = {"Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K"}
_SMALLER_ROWS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "IQ4_XS": "IQ4_NL"}
"""What a tensor gets whose rows the type cannot cut into blocks of 256."""

_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight")
_KEPT = ("ffn_gate_inp", "ffn_gate_inp_shexp")  # routers of experts: small, and what they choose is all or nothing
EMBEDDINGS_KEPT = ("position_embd.weight", "token_types.weight")
"""Tables of encoders that are added to, not multiplied: they stay floats."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What of a model a recipe looks at. ``tied``: the embedding is the output head too."""

    n_layers: int
    n_experts: int = 0
    tied: bool = False


@dataclass(frozen=True, slots=True)
class Override:
    """Tensors whose names a pattern matches get a type of their own."""

    pattern: str
    type: TensorType


def matches(pattern: str, name: str) -> bool:
    """As a wildcard over the whole name (``*`` and ``?``), or as a part of it where it has none."""
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


def parse_quant(text: str) -> str:
    """A name of `FILE_TYPES`, however it is written. Raises `UsageError` with the names there are."""
    name = text.upper().replace("-", "_")
    name = _ALIASES.get(name, name)
    if name not in FILE_TYPES:
        raise UsageError(f"quantization {text!r} is unknown; there are: {', '.join(FILE_TYPES)}")
    return name


def parse_override(text: str) -> Override:
    """``attn_v=Q6_K``. Raises `UsageError`."""
    pattern, _, name = text.rpartition("=")
    if not pattern or name.upper() not in _BY_NAME:
        raise UsageError(f"--tensor-type {text!r} must be PATTERN=TYPE, such as 'attn_v=Q6_K' or 'blk.0.*=Q8_0'")
    return Override(pattern, _BY_NAME[name.upper()])


def tensor_type(
    quant: str, name: str, shape: Sequence[int], layout: Layout, overrides: Sequence[Override] = ()
) -> TensorType:
    """The type of one tensor; ``shape`` rows first. Vectors, routers and positions stay F32. Raises `UsageError` for an
    override that the tensor's rows do not allow."""
    if len(shape) < 2 or not name.endswith(".weight") or name in EMBEDDINGS_KEPT:
        return _BY_NAME["F32"]
    for override in overrides:
        if matches(override.pattern, name):
            if shape[-1] % override.type.block_size:
                raise UsageError(
                    f"--tensor-type {override.pattern}={override.type.name}: {name} has rows of {shape[-1]}, "
                    f"which blocks of {override.type.block_size} do not fit"
                )
            return override.type
    found = _LAYER.fullmatch(name)
    if found and found[2] in _KEPT:
        return _BY_NAME["F32"]
    wanted = _wanted(quant, name, layout)
    if shape[-1] % _BY_NAME[wanted].block_size:
        wanted = _SMALLER_ROWS.get(wanted, "F16")
    if shape[-1] % _BY_NAME[wanted].block_size:
        wanted = "F16"
    return _BY_NAME[wanted]


def _wanted(quant: str, name: str, layout: Layout) -> str:
    if quant in ("F32", "F16", "BF16", "Q8_0"):
        return quant
    if name == "output.weight" or (name == "token_embd.weight" and layout.tied):
        return "Q6_K"
    base = _BASE.get(quant, quant)
    found = _LAYER.fullmatch(name)
    return _in_layer(quant, base, int(found[1]), found[2], layout) if found else base


def _in_layer(quant: str, base: str, layer: int, part: str, layout: Layout) -> str:
    if part in ("attn_v", "attn_k") and layout.n_experts == 8 and quant != "Q6_K":
        return "Q8_0"
    if quant.endswith("_M"):
        if part in ("attn_v", "ffn_down", "ffn_down_exps"):
            return "Q6_K" if _more_bits(layer, layout.n_layers) else base
        if part == "attn_qkv":
            return {"Q4_K": "Q5_K", "Q5_K": "Q6_K"}[base]
        if part == "attn_output" and layout.n_experts == 8:
            return "Q5_K"
    if quant == "Q4_K_S":
        early = {"attn_v": 4, "ffn_down": layout.n_layers // 8, "ffn_down_exps": layout.n_layers // 8}
        return "Q5_K" if layer < early.get(part, 0) else base
    return base


def _more_bits(layer: int, n_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    return layer < n_layers // 8 or layer >= 7 * n_layers // 8 or (layer - n_layers // 8) % 3 == 2
