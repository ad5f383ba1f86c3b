"""How much each column of each matrix matters: the mean square of the activations that meet it on some text, as
llama.cpp's tools keep it (imatrix), in either of their two forms of file."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinfer import gguf
from edgeinfer.errors import FormatError
from edgeinfer.files import atomic_write, open_atomic
from edgeinfer.gguf import TENSOR_TYPES, writer
from edgeinfer.gguf.header import open_regular, shown
from edgeinfer.gguf.writer import NewTensor

__all__ = ["EXTRA", "Importance", "Statistics", "read_importance", "write_importance"]

Floats = npt.NDArray[np.float32]
_SUMS, _COUNTS = ".in_sum2", ".counts"
EXTRA = "edgeinfer.calibration."
_MAX_ENTRIES, _MAX_NAME, _MAX_VALUES, _MAX_BYTES = 1 << 16, 256, 1 << 26, 4 << 30


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one matrix, or of each of several experts': ``sums`` ``(n_experts, n_cols)``, squares of activations added up;
    ``counts`` ``(n_experts,)``, how many were."""

    sums: Floats
    counts: Floats

    @property
    def means(self) -> Floats:
        """``(n_experts, n_cols)``. An expert that nothing reached counts each column alike."""
        met = self.counts > 0
        means: Floats = np.ones_like(self.sums)
        means[met] = self.sums[met] / self.counts[met, None]
        return means


@dataclass(frozen=True, slots=True)
class Importance:
    """By name of tensor. ``dataset``: what the text was; ``n_chunks`` pieces of ``chunk_tokens`` of it were read.
    ``extra``: keys under `EXTRA` that files carry along, such as the text's hash."""

    entries: Mapping[str, Statistics]
    dataset: str = ""
    n_chunks: int = 0
    chunk_tokens: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str, shape: Sequence[int]) -> Floats | None:
        """Weights of a tensor's columns, ``(n_experts or 1, n_cols)``; None where nothing is known of it. Raises
        `FormatError` where the statistics are of another shape."""
        found = self.entries.get(name)
        if found is None:
            return None
        n_experts = shape[0] if len(shape) == 3 else 1
        if found.sums.shape != (n_experts, shape[-1]):
            raise FormatError(
                f"the importance of {name} is for {list(found.sums.shape)} (experts, columns), but the tensor has "
                f"{[n_experts, shape[-1]]}; it was collected on another model"
            )
        return found.means

    def keys(self) -> dict[str, str | int]:
        """What a quantized file says of the statistics, under the names that llama.cpp's tools have."""
        return {
            "quantize.imatrix.dataset": self.dataset,
            "quantize.imatrix.entries_count": len(self.entries),
            "quantize.imatrix.chunks_count": self.n_chunks,
            **self.extra,
        }


def read_importance(path: Path) -> Importance:
    """A file of either form. Raises `FormatError`, `ModelNotFound`."""
    with open_regular(path) as stream:
        magic = stream.read(4)
        if magic == b"GGUF":
            return _from_gguf(path)
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{path} is larger than any importance matrix")
        stream.seek(0)
        return _Old(stream.read(path.stat().st_size), path).read()


def _from_gguf(path: Path) -> Importance:
    file = gguf.read_structure(path)
    if file.metadata.text("general.type", "") != "imatrix":
        raise FormatError(f"{path} is a GGUF file, but holds no importance matrix (general.type is not imatrix)")
    entries = {}
    for name, tensor in file.tensors.items():
        if not name.endswith(_SUMS):
            continue
        base = name.removesuffix(_SUMS)
        counts = file.tensors.get(base + _COUNTS)
        if counts is None or tensor.type.name != "F32" or counts.type.name != "F32":
            raise FormatError(f"{path}: {shown(name)} has no counts, or is not F32")
        n_cols = tensor.shape[0]
        n_experts = tensor.n_elements // n_cols
        if counts.n_elements != n_experts:
            raise FormatError(f"{path}: {shown(name)} is of {n_experts} experts, and its counts of {counts.n_elements}")
        sums = np.fromfile(path, "<f4", tensor.n_elements, offset=tensor.offset).reshape(n_experts, n_cols)
        entries[base] = _checked(path, base, sums, np.fromfile(path, "<f4", n_experts, offset=counts.offset))
    datasets = file.metadata.get("imatrix.datasets")
    dataset = datasets[0] if isinstance(datasets, list) and datasets else ""
    chunks, tokens = (file.metadata.integer(f"imatrix.{key}", 0) for key in ("chunk_count", "chunk_size"))
    extra = {key: file.metadata.text(key, "") for key in file.metadata if key.startswith(EXTRA)}
    return Importance(entries, dataset, chunks, tokens, extra)


def _checked(path: Path, name: str, sums: Floats, counts: Floats) -> Statistics:
    for values in (sums, counts):
        if not np.isfinite(values).all() or (values < 0).any():
            raise FormatError(f"{path}: the importance of {shown(name)} has a value that is negative or no number")
    return Statistics(sums, counts)


class _Old:
    """The form before GGUF: a count, then for each matrix its name, how often it was called, and its values, which are
    means times that number; then the number of chunks and the name of the text."""

    def __init__(self, data: bytes, path: Path) -> None:
        self._data, self._path, self._at = data, path, 0

    def read(self) -> Importance:
        n_entries = self._int(_MAX_ENTRIES)
        entries = {}
        for _ in range(n_entries):
            name = self._text(_MAX_NAME)
            n_calls, n_values = self._int(1 << 31), self._int(_MAX_VALUES)
            values = np.frombuffer(self._span(4 * n_values), "<f4")
            if not n_calls or not n_values:
                raise FormatError(f"{self._path}: the importance of {shown(name)} is empty")
            entries[name] = _checked(self._path, name, values[None, :].copy(), np.array([n_calls], np.float32))
        left = len(self._data) - self._at
        n_chunks = self._int(1 << 31) if left >= 4 else 0
        dataset = self._text(4096) if left > 8 else ""
        return Importance(entries, dataset, n_chunks)

    def _span(self, n_bytes: int) -> bytes:
        if n_bytes > len(self._data) - self._at:
            raise FormatError(f"{self._path}, byte {self._at}: {n_bytes} bytes are claimed, but it ends; no imatrix?")
        self._at += n_bytes
        return self._data[self._at - n_bytes : self._at]

    def _int(self, high: int) -> int:
        (value,) = struct.unpack("<i", self._span(4))
        if not 0 <= value <= high:
            raise FormatError(f"{self._path}, byte {self._at - 4}: {value} must be from 0 to {high}; no imatrix?")
        return int(value)

    def _text(self, high: int) -> str:
        return self._span(self._int(high)).decode("utf-8", "replace")


def write_importance(path: Path, importance: Importance) -> None:
    """As GGUF, or for a name that ends in .dat in the form before. Whole or not at all."""
    if path.suffix == ".dat":
        atomic_write(path, _old_form(importance), mode=0o644)
        return
    keys: dict[str, bytes] = {
        "general.type": writer.string("imatrix"),
        "imatrix.datasets": writer.encoded([importance.dataset]),
        "imatrix.chunk_count": writer.integer(importance.n_chunks),
        "imatrix.chunk_size": writer.integer(importance.chunk_tokens),
        **{key: writer.string(value) for key, value in importance.extra.items()},
    }
    tensors = []
    for name, found in sorted(importance.entries.items()):
        for suffix, values in ((_SUMS, found.sums), (_COUNTS, found.counts[:, None])):
            tensors.append(_as_tensor(name + suffix, values))
    with open_atomic(path, mode=0o644) as stream:
        writer.write(stream, keys, tensors)


def _as_tensor(name: str, values: Floats) -> NewTensor:
    return NewTensor(name, values.shape[::-1], TENSOR_TYPES[0], lambda: [np.ascontiguousarray(values, "<f4")])


def _old_form(importance: Importance) -> bytes:
    """Means times the number of chunks, with that number beside them; of experts one after the other."""
    n_calls = max(1, importance.n_chunks)
    parts = [struct.pack("<i", len(importance.entries))]
    for name, found in importance.entries.items():
        text = name.encode()
        values = (found.means * np.float32(n_calls)).astype("<f4")
        parts += [struct.pack("<i", len(text)), text, struct.pack("<ii", n_calls, values.size), values.tobytes()]
    dataset = importance.dataset.encode()
    parts += [struct.pack("<ii", importance.n_chunks, len(dataset)), dataset]
    return b"".join(parts)
