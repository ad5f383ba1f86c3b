"""Which of a model's matrices our kernels compute, and what follows from it for its answers.

A token's logits are the same bits in any company when every product and the attention are ours: ours keep one order of
accumulation, llama.cpp's do not. Decided from the file's header, before any weight is read. Knows no engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgeinfer import kernels
from edgeinfer.gguf import Dimensions, GGUFFile, TensorInfo, dimensions

__all__ = ["Coverage", "coverage", "is_multiplied"]

_ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3", "gemma3"})
"""Those whose every operation that mixes values is a product or attention as ours. Others may have soft caps, ALiBi,
sinks, convolutions or recurrent state, which stay with llama.cpp."""

_LOOKED_UP = ("position_embd.weight", "token_types.weight")


@dataclass(frozen=True, slots=True)
class Coverage:
    """``types``: for each tensor type of the matrices that are multiplied, the instruction set of our kernel, or
    ``"llama.cpp"``. ``n_matrices``: how many of each. ``same_answers``: whether logits do not depend on company;
    ``why_not`` says in one line what they depend on otherwise."""

    types: Mapping[str, str]
    n_matrices: Mapping[str, int]
    same_answers: bool
    why_not: str = ""


def is_multiplied(tensor: TensorInfo, file: GGUFFile) -> bool:
    """True for a matrix of products; False for norms, biases and tables that rows are looked up in."""
    if len(tensor.shape) < 2 or tensor.name in _LOOKED_UP or not tensor.name.endswith(".weight"):
        return False
    return not tensor.name.startswith("token_embd.") or "output.weight" not in file.tensors


def coverage(file: GGUFFile, report: kernels.KernelReport, *, kv_type: str = "f16") -> Coverage:
    """What ``report`` means for this model."""
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for tensor in file.tensors.values():
        if not is_multiplied(tensor, file):
            continue
        name = tensor.type.name
        ours = report.active and kernels.has_matmul(tensor.type.id, tensor.shape[0])
        counts[name] += 1
        if found.get(name) != "llama.cpp":  # one matrix that stays is enough
            found[name] = kernels.matmul_isa(tensor.type.id) if ours else "llama.cpp"
    why = _why_not(dimensions(file), report, found, kv_type)
    return Coverage(dict(sorted(found.items())), dict(sorted(counts.items())), not why, why)


def _why_not(sizes: Dimensions, report: kernels.KernelReport, types: Mapping[str, str], kv_type: str) -> str:
    if not report.active:
        return report.why
    left = [name for name, isa in types.items() if isa == "llama.cpp"]
    if left:
        return f"our kernels do not take {', '.join(left)}"
    if sizes.architecture not in _ARCHITECTURES:
        return f"our kernels are not proven on architecture {sizes.architecture}"
    if kv_type != "f16":
        return f"our kernels do not take a {kv_type} KV cache"
    if sizes.head_dim_k != sizes.head_dim_v or sizes.head_dim_k % 16 or sizes.head_dim_k > 512:
        return f"our attention does not take heads of {sizes.head_dim_k} and {sizes.head_dim_v} dimensions"
    return ""
