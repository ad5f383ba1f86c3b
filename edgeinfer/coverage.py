"""Which of a model's matrices our kernels compute, and what follows from it for its answers.

A token's logits are the same bits in any company when every product and the attention are ours: ours keep one order of
accumulation, llama.cpp's do not. Decided from the file's header, before any weight is read. Knows no engine.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgeinfer import kernels
from edgeinfer.described import Described, shape_of
from edgeinfer.engines import devices
from edgeinfer.engines.base import EngineConfig
from edgeinfer.gguf import TENSOR_TYPES, Dimensions, GGUFFile, TensorInfo, TensorType, dimensions
from edgeinfer.onnx.package import Package

__all__ = [
    "Coverage",
    "Work",
    "coverage",
    "expected_coverage",
    "has_our_operators",
    "in_words",
    "is_dynamic_on_cpu",
    "is_multiplied",
    "package_coverage",
    "why_not_ours",
    "work",
]

_ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3", "gemma3"})
"""Those whose every operation that mixes values is a product or attention as ours. Others may have soft caps, ALiBi,
sinks, convolutions or recurrent state, which stay with llama.cpp."""

# As can_attend in plugin/attend.cc has them. llama.cpp writes q8_0 by the block, so what lies in a cell has no company.
_MOST_CELLS = 1 << 18
_HEAD_MULTIPLE = {"f16": 16, "q8_0": 32}
_RUNTIMES = ("llama.cpp", "ONNX Runtime")
_LOOKED_UP = ("position_embd.weight", "token_types.weight")


@dataclass(frozen=True, slots=True)
class Coverage:
    """``types``: for each tensor type of the matrices that are multiplied, the instruction set of our kernel, or the
    runtime that computes it, ``"llama.cpp"`` or ``"ONNX Runtime"``. ``n_matrices``: how many of each.
    ``same_answers``: whether logits do not depend on company; ``why_not`` says in one line what they depend on
    otherwise."""

    types: Mapping[str, str]
    n_matrices: Mapping[str, int]
    same_answers: bool
    why_not: str = ""


def is_multiplied(tensor: TensorInfo, file: GGUFFile) -> bool:
    """True for a matrix of products; False for norms, biases and tables that rows are looked up in."""
    if len(tensor.shape) < 2 or tensor.name in _LOOKED_UP or not tensor.name.endswith(".weight"):
        return False
    return not tensor.name.startswith("token_embd.") or "output.weight" not in file.tensors


def coverage(file: GGUFFile, report: kernels.KernelReport, *, kv_type: str = "f16", n_cells: int = 0) -> Coverage:
    """What ``report`` means for this model with a KV cache of this type and size."""
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
    why = _why_not(dimensions(file), report, found, kv_type, n_cells)
    return Coverage(dict(sorted(found.items())), dict(sorted(counts.items())), not why, why)


def _why_not(
    sizes: Dimensions, report: kernels.KernelReport, types: Mapping[str, str], kv_type: str, n_cells: int
) -> str:
    if not report.active:
        return report.why
    left = [name for name, isa in types.items() if isa == "llama.cpp"]
    if left:
        return f"our kernels do not take {', '.join(left)}"
    if sizes.architecture not in _ARCHITECTURES:
        return f"our kernels are not proven on architecture {sizes.architecture}"
    multiple = _HEAD_MULTIPLE.get(kv_type, 0)
    if not multiple:
        return f"our kernels do not take a {kv_type} KV cache"
    if sizes.head_dim_k != sizes.head_dim_v or sizes.head_dim_k % multiple or sizes.head_dim_k > 512:
        return f"our attention does not take heads of {sizes.head_dim_k} and {sizes.head_dim_v} dimensions"
    if n_cells > _MOST_CELLS:
        return f"our attention does not take a KV cache of {n_cells} cells, but of {_MOST_CELLS} at most"
    return ""


def why_not_ours(package: Package, config: EngineConfig) -> str:
    """Why ONNX Runtime's own kernels will compute this package under ``config``; empty where our operators will."""
    if not package.hyperparameters.causal:
        return "our kernels do not compute encoders"
    if not is_dynamic_on_cpu(package, config):
        return "our kernels compute on the CPU, where the package has graphs for that"
    if not config.kernels:
        return "our kernels are switched off"
    from edgeinfer.onnx import operators

    return operators.why_not() or operators.lacking(package.hyperparameters)


def is_dynamic_on_cpu(package: Package, config: EngineConfig) -> bool:
    """Whether ONNX Runtime's CPU provider will compute this package, by a graph of any number of tokens."""
    device = config.require if config.device == "auto" and config.require else config.device
    return devices.choices(device)[0].provider.word == "cpu" and "cpu" in package.variants


def has_our_operators(package: Package, config: EngineConfig) -> bool:
    """From the manifest alone; what the graph turns out to hold may still speak against it."""
    return not why_not_ours(package, config)


def package_coverage(package: Package, config: EngineConfig) -> Coverage:
    """As `coverage`. With our operators every matrix has one of our kernels: its blocks are rebuilt in a type that has
    one. ONNX Runtime's CPU kernels round alone otherwise than in company; there isolation makes answers the same, at
    the price of a second row."""
    why = why_not_ours(package, config)
    counts = Counter(kind.name for kind, _ in _matrices(package))
    types = dict.fromkeys(counts, "ONNX Runtime")
    if not why:
        ids = {kind.name: kind.id for kind in TENSOR_TYPES.values()}
        types = {name: kernels.matmul_isa(ids[name]) for name in counts}
    return Coverage(dict(sorted(types.items())), dict(sorted(counts.items())), not why, why)


def expected_coverage(file: Described, config: EngineConfig | None = None) -> Coverage:
    """What a model will get on this machine unless something else is asked for, whatever its form."""
    config = config or EngineConfig()
    if isinstance(file, Package):
        return package_coverage(file, config)
    report = kernels.expected() if config.kernels else kernels.KernelReport(False, "our kernels are switched off")
    return coverage(file, report, kv_type=config.kv_type)


def _matrices(package: Package, *, of_a_token: bool = False) -> Iterator[tuple[TensorType, tuple[int, int]]]:
    """Type and shape of the matrices of products; a tied table counts as the head. ``of_a_token``: of experts, those
    rows that one token goes through."""
    sizes = package.hyperparameters
    by_name = {kind.name: kind for kind in TENSOR_TYPES.values()}
    for name, form in package.tensors.items():
        shape = shape_of(package, name)
        looked_up = name == "token_embd.weight" and not package.hyperparameters.tied_embeddings
        if of_a_token and name.endswith("_exps.weight") and sizes.n_experts:
            shape = shape[0] // sizes.n_experts * sizes.n_experts_used, shape[1]
        if math.prod(shape) and not looked_up and form.type in by_name:
            yield by_name[form.type], shape


def in_words(covered: Coverage) -> str:
    """``Q4_K (168 matrices): avx512vnni; Q6_K (29): llama.cpp; same answers in any company: no, …``"""
    for runtime in _RUNTIMES:
        if all(isa == runtime for isa in covered.types.values()):
            return f"{runtime}'s own: {covered.why_not}"
    counts = [f"{covered.n_matrices[name]}" for name in covered.types]
    counts[0] += " matrices" if covered.n_matrices[next(iter(covered.types))] != 1 else " matrix"
    parts = [f"{name} ({n}): {isa}" for n, (name, isa) in zip(counts, covered.types.items(), strict=True)]
    same = "yes" if covered.same_answers else f"no, {covered.why_not}"
    return "; ".join((*parts, f"same answers in any company: {same}"))


@dataclass(frozen=True, slots=True)
class Work:
    """What a model's matrix products cost. ``decode_bytes``: weights that one token reads. ``body_ops`` and
    ``head_ops``: operations of one token, two a multiply-accumulate, without and in the product that makes its logits.
    Attention is not counted."""

    decode_bytes: int
    body_ops: int
    head_ops: int

    def prefill_ops(self, n_tokens: int) -> int:
        """Of a prompt: only its last token has logits."""
        return n_tokens * self.body_ops + self.head_ops


def work(file: Described) -> Work:
    """From the header; of a mixture's experts, those that a token goes through. Of a package, as if its weights lay in
    the types of its source, as our kernels have them."""
    if isinstance(file, Package):
        return _package_work(file)
    used = _experts_used(file)
    n_bytes = body = head = 0
    for tensor in file.tensors.values():
        if not is_multiplied(tensor, file):
            continue
        experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
        part = min(used, experts) if used else experts
        n_bytes += tensor.n_bytes // experts * part
        ops = 2 * tensor.n_elements // experts * part
        if tensor.name.startswith(("output.", "token_embd.")):
            head += ops
        else:
            body += ops
    return Work(n_bytes, body, head)


def _package_work(package: Package) -> Work:
    n_bytes = body = head = 0
    for kind, (n_rows, n_cols) in _matrices(package, of_a_token=True):
        n_bytes += int(n_rows * n_cols * kind.bits_per_weight / 8)
        if n_rows == package.hyperparameters.n_vocab:
            head += 2 * n_rows * n_cols
        else:
            body += 2 * n_rows * n_cols
    return Work(n_bytes, body, head)


def _experts_used(file: GGUFFile) -> int:
    """By each token; the most of any layer where layers differ; 0 for a model without experts."""
    key = f"{file.architecture}.expert_used_count"
    if key in file.metadata and file.metadata.element_type(key) is not None:
        return int(max(file.metadata.numbers(key).tolist(), default=0))
    return file.metadata.integer(key, 0)
