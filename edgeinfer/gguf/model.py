"""What a GGUF model says of itself, held against itself and against its tensors.

llama.cpp stops the whole process (GGML_ASSERT, an uncaught exception, a division by zero) on many files that are
well-formed but lie. Each check here names one such end, or a size that our own planning relies on; what llama.cpp
refuses with an ordinary error (a missing tensor, a wrong shape, an architecture that it does not know) is left to it.
Limits are those of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer.core import ModelInfo
from edgeinfer.errors import FormatError, UnsupportedModel, UnsupportedQuant
from edgeinfer.gguf.formats import COMPUTABLE, ValueType
from edgeinfer.gguf.header import shown
from edgeinfer.gguf.reader import GGUFFile, TensorInfo, read_structure
from edgeinfer.gguf.vocabulary import check_vocabulary, vocabulary_size

__all__ = ["Dimensions", "dimensions", "model_info", "part_paths", "quant_mix", "read"]

_MAX_LAYERS = 512
_MAX_EXPERTS = 1024
_MAX_WIDTH = 1 << 20
_MAX_CONTEXT = 1 << 30
_MAX_HEADS = 1 << 14
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_PART = re.compile(r"(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Dimensions:
    """A model's sizes. Per-layer tuples have ``n_layers`` entries; a layer without attention has 0 heads. ``n_state``
    counts the float32 values that all recurrent layers together keep for one sequence. ``n_swa`` is the sliding
    window, 0 without; of an encoder, whose tokens see those after them too, ``causal`` is false."""

    architecture: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_ctx_train: int
    n_vocab: int
    n_heads: tuple[int, ...]
    n_kv_heads: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    n_swa: int
    n_state: int
    causal: bool


def read(path: str | Path) -> GGUFFile:
    """Read a model and prove that it can be given to llama.cpp. A split model is named by its first part; the answer
    then has the tensors of all parts and their bytes together.

    Raises what `read_structure` raises, `FormatError` for what contradicts itself, `UnsupportedModel` and
    `UnsupportedQuant` for what is sound but cannot be run.
    """
    file = _joined(read_structure(path))
    sizes = dimensions(file)
    _check_tensors(file, sizes)
    check_vocabulary(file)
    return file


def named_parts(path: Path) -> list[Path]:
    """The files that make up a model of this name, whatever they hold: all parts of a split one, else just ``path``."""
    match = _PART.fullmatch(path.name)
    return _numbered(path, match["stem"], int(match["count"])) if match else [path]


def _numbered(path: Path, stem: str, count: int) -> list[Path]:
    return [path.with_name(f"{stem}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]


def part_paths(file: GGUFFile) -> list[Path]:
    """The files of a split model in order, from the first part's name; just the file itself when it is not split."""
    if file.split_count == 1:
        return [file.path]
    match = _PART.fullmatch(file.path.name)
    if not match or int(match["count"]) != file.split_count or int(match["index"]) != file.split_index + 1:
        raise FormatError(
            f"{file.path} is part {file.split_index + 1} of {file.split_count}, but is not named so; "
            f"its name must end in -{file.split_index + 1:05}-of-{file.split_count:05}.gguf"
        )
    return _numbered(file.path, match["stem"], file.split_count)


def _joined(file: GGUFFile) -> GGUFFile:
    if file.split_count == 1:
        return file
    paths = part_paths(file)
    if file.split_index:
        raise FormatError(
            f"{file.path} is part {file.split_index + 1} of {file.split_count}; name the first one, {paths[0].name}"
        )
    tensors: dict[str, TensorInfo] = dict(file.tensors)
    n_bytes = file.file_bytes
    for index, path in enumerate(paths[1:], start=1):
        part = read_structure(path)
        if (part.split_index, part.split_count) != (index, file.split_count):
            raise FormatError(
                f"{path} calls itself part {part.split_index + 1} of {part.split_count}, against its name"
            )
        twice = tensors.keys() & part.tensors.keys()
        if twice:
            raise FormatError(f"{path}: tensor {shown(min(twice))} is in an earlier part already")
        tensors.update(part.tensors)
        n_bytes += part.file_bytes
    claimed = file.metadata.integer("split.tensors.count", len(tensors))
    if claimed != len(tensors):
        raise FormatError(
            f"{file.path}: {claimed} tensors are claimed, but its {file.split_count} parts hold {len(tensors)}"
        )
    return replace(file, tensors=tensors, file_bytes=n_bytes)


class _Keys:
    """The architecture's own keys, ``{architecture}.…``, as integers within bounds."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.prefix = file.architecture + "."

    def fail(self, key: str, what: str) -> FormatError:
        return FormatError(f"{self.file.path}: {self.prefix}{key} {what}")

    def has(self, key: str) -> bool:
        return self.prefix + key in self.file.metadata

    def size(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self.file.metadata.integer(self.prefix + key, default)
        if not low <= value <= high:
            raise self.fail(key, f"is {value}, but must be between {low} and {high}")
        return value

    def per_layer(self, key: str, n_layers: int, high: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """One number for all layers or an array of one a layer."""
        name = self.prefix + key
        if default is not None and not self.has(key):
            return default
        if self.file.metadata.kind(name) is not ValueType.ARRAY:
            return (self.size(key, 0, high),) * n_layers
        if self.file.metadata.element_type(name) not in (ValueType.UINT32, ValueType.INT32):
            raise self.fail(key, "must be an array of 32-bit integers")
        values = tuple(int(value) for value in self.file.metadata.numbers(name)[: n_layers + 1])
        if len(values) != n_layers:
            raise self.fail(key, f"has {self.file.metadata.count(name)} entries for {n_layers} layers")
        if min(values) < 0 or max(values) > high:
            raise self.fail(key, f"has an entry outside 0 to {high}")
        return values

    def finite(self, key: str) -> None:
        """A float that divides something later: present and zero, negative or not a number is refused."""
        if self.has(key):
            value = self.file.metadata.number(self.prefix + key)
            if not (math.isfinite(value) and value > 0):
                raise self.fail(key, f"is {value}, but must be above 0")


def dimensions(file: GGUFFile) -> Dimensions:
    """The sizes of a model, checked against each other. Raises `FormatError`; `UnsupportedModel` for a file that is
    no text model (an adapter, a projector, an importance matrix)."""
    kind = file.metadata.text("general.type", "model")
    if kind != "model" or file.architecture in ("clip", "imatrix"):
        raise UnsupportedModel(
            f"{file.path} is not a text model by itself, but of kind {shown(kind)}; give the model's own file"
        )
    keys = _Keys(file)
    n_layers = keys.size("block_count", 1, _MAX_LAYERS)
    n_embd = keys.size("embedding_length", 1, _MAX_WIDTH)
    recurrent = keys.has("ssm.state_size") or keys.has("wkv.head_size")
    no_heads = (0,) * n_layers if recurrent else None
    n_heads = keys.per_layer("attention.head_count", n_layers, _MAX_HEADS, no_heads)
    n_kv_heads = keys.per_layer("attention.head_count_kv", n_layers, _MAX_HEADS, n_heads)
    head_dim_k, head_dim_v = _head_dims(keys, n_embd, n_heads, n_kv_heads, recurrent)
    sizes = Dimensions(
        file.architecture,
        n_layers,
        n_embd,
        max(keys.per_layer("feed_forward_length", n_layers, _MAX_WIDTH, (0,) * n_layers)),
        keys.size("context_length", 1, _MAX_CONTEXT),
        vocabulary_size(file),
        n_heads,
        n_kv_heads,
        head_dim_k,
        head_dim_v,
        keys.size("attention.sliding_window", 0, _MAX_CONTEXT, 0),
        _state_size(keys, n_layers, n_embd),
        file.metadata.flag(f"{file.architecture}.attention.causal", True),
    )
    _check_experts(keys, n_layers)
    _check_rope(keys, head_dim_k)
    _check_window(keys, sizes.n_swa)
    return sizes


def _head_dims(
    keys: _Keys, n_embd: int, n_heads: tuple[int, ...], n_kv_heads: tuple[int, ...], recurrent: bool
) -> tuple[int, int]:
    if not any(n_heads) and not recurrent:
        raise keys.fail("attention.head_count", "is 0 in every layer")
    for layer, (n_head, n_kv) in enumerate(zip(n_heads, n_kv_heads, strict=True)):
        if n_kv and (n_kv > n_head or n_head % n_kv):
            raise keys.fail(
                "attention.head_count_kv", f"is {n_kv} in layer {layer}, which does not divide its {n_head} heads"
            )
    first = n_heads[0] or max(n_heads)
    if not first:
        return 0, 0
    if not keys.has("attention.key_length") and n_embd % first:
        raise keys.fail("attention.head_count", f"is {first}, which does not divide embedding_length {n_embd}")
    dims = []
    for which in ("key_length", "value_length"):
        full = keys.size(f"attention.{which}", 1, _MAX_WIDTH, max(1, n_embd // first))
        dims.append(max(full, keys.size(f"attention.{which}_swa", 1, _MAX_WIDTH, full)))
    return dims[0], dims[1]


def _state_size(keys: _Keys, n_layers: int, n_embd: int) -> int:
    """Values that recurrent layers keep for one sequence: an upper bound, every layer counted as recurrent."""
    if keys.has("ssm.state_size"):
        inner = keys.size("ssm.inner_size", 1, _MAX_WIDTH)
        state = keys.size("ssm.state_size", 1, _MAX_WIDTH)
        groups = keys.size("ssm.group_count", 0, _MAX_HEADS, 0)
        kernel = keys.size("ssm.conv_kernel", 1, 1024)
        return n_layers * (kernel * (inner + 2 * groups * state) + state * inner)
    if keys.has("wkv.head_size"):
        return n_layers * n_embd * (keys.size("wkv.head_size", 1, 4096) + 2)
    return 0


def _check_experts(keys: _Keys, n_layers: int) -> None:
    """llama.cpp asserts on all of these."""
    n_expert = keys.size("expert_count", 0, _MAX_EXPERTS, 0)
    used = max(keys.per_layer("expert_used_count", n_layers, _MAX_EXPERTS, (0,) * n_layers))
    groups = keys.size("expert_group_count", 0, _MAX_EXPERTS, 0)
    if used > n_expert or bool(used) != bool(n_expert):
        raise keys.fail("expert_used_count", f"is {used} of {n_expert} experts")
    if groups and (groups >= n_expert or n_expert % groups):
        raise keys.fail("expert_group_count", f"is {groups}, which does not divide {n_expert} experts")
    if groups > 1 and not 1 <= keys.size("expert_group_used_count", 0, _MAX_EXPERTS, 0) < groups:
        raise keys.fail("expert_group_used_count", f"must be between 1 and {groups - 1}")
    keys.size("nextn_predict_layers", 0, n_layers, 0)


def _check_rope(keys: _Keys, head_dim: int) -> None:
    name = keys.prefix + "rope.scaling.type"
    if name in keys.file.metadata and keys.file.metadata.text(name) not in _ROPE_SCALINGS:
        value = keys.file.metadata.text(name)
        raise keys.fail("rope.scaling.type", f"is {shown(value)}, but must be one of {', '.join(_ROPE_SCALINGS)}")
    for key in ("rope.dimension_count", "rope.dimension_count_swa"):
        if head_dim and keys.size(key, 0, head_dim, 0) % 2:
            raise keys.fail(key, "is odd")
    for key in (
        "rope.freq_base",
        "rope.freq_base_swa",
        "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon",
    ):
        keys.finite(key)


def _check_window(keys: _Keys, n_swa: int) -> None:
    """A window in none of the layers makes llama.cpp stop the process."""
    name = keys.file.architecture
    windowed = name == "gemma2" or (name == "gemma3" and n_swa)
    if windowed and keys.file.metadata.get(keys.prefix + "attention.sliding_window_pattern") == 1:
        raise keys.fail("attention.sliding_window_pattern", "is 1, which leaves no layer with the window")


def _check_tensors(file: GGUFFile, sizes: Dimensions) -> None:
    if not file.tensors:
        raise FormatError(f"{file.path} has no tensors: it holds a vocabulary only, or is damaged")
    for tensor in file.tensors.values():
        what = f"{tensor.path}: tensor {shown(tensor.name)}"
        layer = re.match(r"blk\.([0-9]+)\.", tensor.name)
        if layer and int(layer[1]) >= sizes.n_layers:
            raise FormatError(f"{what} belongs to a layer that the {sizes.n_layers} layers claimed do not have")
        if tensor.type.name not in COMPUTABLE:
            raise UnsupportedQuant(
                f"{what} is of type {tensor.type.name}, which has no matrix product; quantize the model again"
            )
        if len(tensor.shape) == 1 and tensor.type.name not in (
            "F32",
            "I32",
        ):  # ggml aborts on norms and biases of other types
            raise UnsupportedQuant(
                f"{what} is a vector of type {tensor.type.name}, but must be F32; convert the model again"
            )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None and embedding.shape != (sizes.n_embd, sizes.n_vocab):
        raise FormatError(
            f"{file.path}: token_embd.weight has shape {list(embedding.shape)}, "
            f"but embedding_length and the vocabulary say {[sizes.n_embd, sizes.n_vocab]}"
        )


def quant_mix(file: GGUFFile) -> dict[str, float]:
    """Tensor type -> its share of the tensors' bytes, largest first; sums to 1."""
    n_bytes: dict[str, int] = {}
    for tensor in file.tensors.values():
        n_bytes[tensor.type.name] = n_bytes.get(tensor.type.name, 0) + tensor.n_bytes
    total = sum(n_bytes.values()) or 1
    return {name: count / total for name, count in sorted(n_bytes.items(), key=lambda item: (-item[1], item[0]))}


def model_info(source: str | Path | GGUFFile, *, name: str | None = None) -> ModelInfo:
    """What a model is, from its header alone: under 0.1 s for a vocabulary of 150,000 tokens. Raises as `read`, without
    its slower look at the vocabulary, which a file from `read` has behind it."""
    file = source if isinstance(source, GGUFFile) else _joined(read_structure(source))
    sizes = dimensions(file)
    _check_tensors(file, sizes)
    meta: Mapping[str, object] = file.metadata
    n_params = sum(tensor.n_elements for tensor in file.tensors.values())
    template, licence = meta.get("tokenizer.chat_template"), meta.get("general.license")
    return ModelInfo(
        name=name or file.path.stem,
        path=str(file.path),
        architecture=sizes.architecture,
        file_bytes=file.file_bytes,
        n_params=n_params,
        n_vocab=sizes.n_vocab,
        n_ctx_train=sizes.n_ctx_train,
        n_layers=sizes.n_layers,
        n_embd=sizes.n_embd,
        n_heads=max(sizes.n_heads),
        n_kv_heads=max(sizes.n_kv_heads),
        head_dim=sizes.head_dim_k,
        quant_mix=quant_mix(file),
        bits_per_weight=8 * sum(tensor.n_bytes for tensor in file.tensors.values()) / n_params,
        chat_template=template if isinstance(template, str) else None,
        licence=licence if isinstance(licence, str) else None,
    )
