"""Making a draft model out of a model: its matrices in 4 bits, its output head cut down to the tokens that are likely.

A third of what a small model reads for a token is its head, a row for each of 150,000 tokens of which few ever occur. A
draft may leave the others out: it never guesses them, and the model that it drafts for still chooses them (FR-Spec,
arXiv:2502.14856). Its inputs are not cut: they are looked up in the source (`edgeinfer.engines.token_table`), which the
draft's file remembers together with the token that each row of its head stands for. Opens no engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinfer import gguf, kernels
from edgeinfer.catalog import Progress
from edgeinfer.engines.token_table import ARCHITECTURES
from edgeinfer.errors import DraftUnavailable
from edgeinfer.files import open_atomic
from edgeinfer.gguf import TENSOR_TYPES, GGUFFile, TensorInfo, TensorType, writer
from edgeinfer.gguf.writer import NewTensor
from edgeinfer.kernels.formats import FORMATS
from edgeinfer.speculate.head import likely_tokens

__all__ = ["BUILD_VERSION", "KEYS", "Recipe", "build_draft", "check_possible", "planned_bytes"]

BUILD_VERSION = 1
"""Counts up whenever the same source and recipe would give another file."""

KEYS = "edgeinfer.draft."
"""Prefix of what a draft's file says of itself: ``version``, ``source`` (a path), ``fingerprint``, ``token_ids``."""

_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_ROUTER = ".ffn_gate_inp."  # of a mixture of experts: small, and what it chooses is all or nothing
_PIECE_ELEMENTS = 1 << 22

Floats = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Recipe:
    """``n_head``: how many tokens the draft can guess; ``body`` and ``head``: formats of its matrices. A matrix that
    takes no more bits as it is, or whose type or row length does not allow it, is copied.

    The defaults are measured with Qwen2.5-Coder 0.5B drafting for 1.5B, on 25 answers of the latter: the share of
    tokens guessed right, and milliseconds for a token on 2 cores, where the 1.5B took 35.2 in the same run:

        as it is (Q4_K_M)                .910   15.1
        Q4_0                             .907   11.3
        Q4_0, a head of 32768            .890    9.2
        Q4_0, a head of 49152            .899    9.4
        Q4_0, a head of 49152 in Q8_0    .900   10.4

    IQ4_NL guesses and runs as Q4_0 does, and takes ten times as long to make. A head of 65536 guesses .905 for another
    0.25 ms, which comes to the same; of other languages than English every one of these holds little.
    """

    n_head: int = 49152
    body: str = "Q4_0"
    head: str = "Q4_0"


def build_draft(source: Path, target: Path, recipe: Recipe, fingerprint: str, progress: Progress) -> None:
    """Write the draft of the model ``source`` to ``target``, whole or not at all. In memory are a few million weights
    at a time.

    ``progress`` counts the bytes of the source. Raises `DraftUnavailable` for a model that this cannot be done with,
    `BackendUnavailable` without our library, and what `edgeinfer.gguf.read` raises.
    """
    file = gguf.read(source)
    check_possible(file)
    token_ids = likely_tokens(file, recipe.n_head)
    done, total = 0, sum(tensor.n_bytes for tensor in file.tensors.values())

    def report(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress.update(done, total)

    with open_atomic(target, mode=0o644) as stream:
        writer.write(stream, _keys(file, token_ids, fingerprint), list(_tensors(file, recipe, token_ids, report)))


def planned_bytes(file: GGUFFile, recipe: Recipe) -> int:
    """Bytes of the draft's tensors, all of which it reads for a token."""
    n_head = min(recipe.n_head, gguf.dimensions(file).n_vocab)
    rows = np.arange(n_head, dtype=np.int32)
    return sum(tensor.n_bytes for tensor in _tensors(file, recipe, rows, lambda _n_bytes: None))


def check_possible(file: GGUFFile) -> None:
    """Raise `DraftUnavailable` for a model that no draft can be made of."""
    name, head = file.path.name, _head(file)
    if file.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise DraftUnavailable(f"{name} is of architecture {file.architecture}; drafts are made of {known}")
    if head is None or "output.bias" in file.tensors:
        raise DraftUnavailable(f"{name} has no output head of a kind that can be cut")
    for tensor in (head, file.tensors[_EMBEDDING]):
        if not _readable(tensor):
            raise DraftUnavailable(f"{name}: {tensor.name} is of type {tensor.type.name}, which we do not decode")


def _head(file: GGUFFile) -> TensorInfo | None:
    """The matrix that makes logits; None without one whose rows are the vocabulary's."""
    embedding = file.tensors.get(_EMBEDDING)
    head = file.tensors.get(_OUTPUT, embedding)
    return head if embedding is not None and head is not None and head.shape == embedding.shape else None


def _readable(tensor: TensorInfo) -> bool:
    return tensor.type.name == "F32" or tensor.type.name in FORMATS


def _keys(file: GGUFFile, token_ids: TokenIds, fingerprint: str) -> dict[str, bytes]:
    """The source's own, without its vocabulary, which llama.cpp would want to be as long as the head."""
    left_out = ("tokenizer.", "split.", "general.alignment", "general.file_type", KEYS)
    keys = {key: file.metadata.stored(key) for key in file.metadata if not key.startswith(left_out)}
    keys["tokenizer.ggml.model"] = writer.string("none")
    keys[f"{file.architecture}.vocab_size"] = writer.integer(token_ids.size)
    keys[KEYS + "version"] = writer.integer(BUILD_VERSION)
    keys[KEYS + "source"] = writer.string(str(file.path.absolute()))
    keys[KEYS + "fingerprint"] = writer.string(fingerprint)
    keys[KEYS + "token_ids"] = writer.array(token_ids)
    return keys


def _tensors(file: GGUFFile, recipe: Recipe, token_ids: TokenIds, report: Callable[[int], None]) -> Iterator[NewTensor]:
    for tensor in file.tensors.values():
        if tensor.name in (_EMBEDDING, _OUTPUT):
            continue
        yield _converted(tensor, tensor.name, _wanted(tensor, recipe.body), None, report)
    head = _head(file)
    if head is not None:
        # As the embedding, with which llama.cpp then computes logits too: it insists on one, and never reads it.
        yield _converted(head, _EMBEDDING, _wanted(head, recipe.head), token_ids, report)


def _wanted(tensor: TensorInfo, format: str) -> TensorType:
    """The type that a tensor gets."""
    kind = next(kind for kind in TENSOR_TYPES.values() if kind.name == format)
    is_matrix = len(tensor.shape) > 1 and tensor.name.endswith(".weight") and _ROUTER not in tensor.name
    fits = tensor.shape[0] % kind.block_size == 0 and _readable(tensor)
    smaller = kind.bits_per_weight < tensor.type.bits_per_weight
    return kind if is_matrix and fits and smaller else tensor.type


def _converted(
    tensor: TensorInfo, name: str, kind: TensorType, rows: TokenIds | None, report: Callable[[int], None]
) -> NewTensor:
    """``tensor`` as another type, whole or only these rows of it."""
    n_rows = math.prod(tensor.shape[1:])
    row_bytes = tensor.n_bytes // n_rows
    shape = tensor.shape if rows is None else (tensor.shape[0], rows.size)

    def pieces() -> Iterator[npt.NDArray[np.uint8]]:
        blocks = np.memmap(tensor.path, np.uint8, "r", tensor.offset, (n_rows, row_bytes))
        step = max(1, _PIECE_ELEMENTS // tensor.shape[0])
        for begin in range(0, n_rows if rows is None else rows.size, step):
            piece = blocks[begin : begin + step] if rows is None else blocks[rows[begin : begin + step]]
            yield np.asarray(piece) if kind == tensor.type else _requantized(tensor, np.asarray(piece), kind)
            report(piece.nbytes)

    return NewTensor(name, shape, kind, pieces)


def _requantized(tensor: TensorInfo, blocks: npt.NDArray[np.uint8], kind: TensorType) -> npt.NDArray[np.uint8]:
    if tensor.type.name == "F32":
        return kernels.quantize(kind.name, blocks.view(np.float32))
    return kernels.quantize(kind.name, kernels.dequantize(tensor.type.name, blocks))
