"""A package as a model to convert again: its tensors as they lie in its graph's data, under their names in the source,
and the decoder that its vocabulary's metadata describe. What a package keeps of a rope are its frequencies; the factors
that these came from are found again. Runs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer import gguf
from edgeinfer.catalog.store import Progress, Quiet
from edgeinfer.converters.architectures import describe
from edgeinfer.converters.architectures.decoder import Decoder, with_factors
from edgeinfer.converters.architectures.phi3 import LONG, SHORT
from edgeinfer.converters.architectures.rope import Rope
from edgeinfer.converters.sources import Bytes, GGUFSource, SourceTensor, TensorSource
from edgeinfer.converters.to_onnx.head_order import HeadOrder
from edgeinfer.converters.to_onnx.stored_rows import DataFiles, Rows, stored_rows
from edgeinfer.errors import FormatError, UnsupportedModel
from edgeinfer.gguf import TENSOR_TYPES, GGUFFile, TensorInfo
from edgeinfer.onnx import package as packages
from edgeinfer.onnx.graph import read_graph
from edgeinfer.onnx.package import MANIFEST, STATIC_MODES, Hyperparameters, Package

__all__ = ["PackageSource", "open_package"]

Floats = npt.NDArray[np.float32]
_TABLE = "token_embd"
_ROPE = "rope_freqs.weight"
_F32 = next(kind for kind in TENSOR_TYPES.values() if kind.name == "F32")
_NEAR = 1e-6
"""Relative: powers and roots may differ in the last place from one machine to another."""


class _Vector:
    """Numbers that are in no data file."""

    def __init__(self, values: Floats) -> None:
        self._values = values
        self.tensor = SourceTensor(values.shape, "F32", values.nbytes)

    def read(self, first: int, n_rows: int) -> Bytes:
        return self._values.view(np.uint8)[None][first : first + n_rows]


class _TableRows:
    """The table of embeddings of variant npu, which is a GGUF file: rows of the source, whatever the graphs have."""

    def __init__(self, source: GGUFSource, name: str) -> None:
        self._source, self._name = source, name
        self.tensor = source.tensors[name]

    def read(self, first: int, n_rows: int) -> Bytes:
        return self._source.rows(self._name, first, n_rows)


class PackageSource:
    """The `TensorSource` of a package. Blocks have types of `forms.OWN`. Rows are in the source's order again."""

    def __init__(self, label: str, rows: Mapping[str, Rows], order: HeadOrder) -> None:
        self.label = label
        self._rows = rows
        self._order = order
        self.tensors = {name: each.tensor for name, each in rows.items()}

    def rows(self, name: str, first: int, n_rows: int) -> Bytes:
        if not self._order.concerns(name):
            return self._rows[name].read(first, n_rows)
        tensor, dim = self.tensors[name], self._order.dim
        if len(tensor.shape) == 1:
            whole: Floats = self._rows[name].read(0, 1).view("<f4")[0]
            return np.ascontiguousarray(whole[self._order.of_source(len(whole))]).view(np.uint8)[None]
        low, high = first // dim * dim, -(-(first + n_rows) // dim) * dim
        found: Bytes = self._rows[name].read(low, high - low)[self._order.of_source(high - low)]
        return found[first - low : first - low + n_rows]


@contextmanager
def open_package(
    folder: Path, progress: Progress | None = None
) -> Iterator[tuple[Package, GGUFFile, Decoder, TensorSource]]:
    """The package in ``folder``, every file of which is held against its hash first; its metadata, as a file without
    data; the model; and its tensors as a graph wants them, readable within the block.

    Raises what `packages.read`, `Package.check_hashes`, `read_graph` and `describe` raise, and `FormatError` for what
    does not go together; `UnsupportedModel` for one of static ranges.
    """
    package = packages.read(folder)
    if package.mode in STATIC_MODES:
        raise UnsupportedModel(
            f"{folder} is {package.mode}: its weights are made for the ranges of one text; give what it was made from"
        )
    (progress or Quiet()).note(f"hashing the files of {folder}")
    package.check_hashes()
    dynamic = next((name for name in ("cpu", "cuda") if name in package.variants), None)
    variant = package.variants[dynamic or next(iter(package.variants))]
    with ExitStack() as stack:
        files = DataFiles(package, variant, read_graph(package, variant))
        stack.callback(files.close)
        rows = stored_rows(files, package.tensors, by_columns=dynamic is None)
        rows |= _table(package, stack)
        decoder, factors = _decoder(package, rows)
        rows |= {name: _Vector(values) for name, values in factors.items()}
        source = PackageSource(str(folder), rows, HeadOrder.of(decoder))
        decoder.check(source.tensors, source.label)
        decoder = with_factors(decoder, source)
        _check_sizes(decoder.stored_sizes(), package)
        yield package, _file(package, source.tensors), decoder, source


def _table(package: Package, stack: ExitStack) -> dict[str, Rows]:
    name = f"npu/{_TABLE}.gguf"
    if "npu" not in package.variants or name not in package.variants["npu"].files:
        return {}
    source = stack.enter_context(GGUFSource(gguf.read_structure(package.path(name))))
    weight = f"{_TABLE}.weight"
    if set(source.tensors) != {weight}:
        raise FormatError(f"{package.path(name)} does not hold {weight} alone; convert again")
    return {weight: _TableRows(source, weight)}


def _file(package: Package, tensors: Mapping[str, SourceTensor]) -> GGUFFile:
    """The metadata, with the tensors' names and shapes. There is nothing to read at its path."""
    infos = {
        name: TensorInfo(name, tensor.shape[::-1], _F32, 0, tensor.n_rows * tensor.row_bytes, package.folder)
        for name, tensor in tensors.items()
    }
    return replace(gguf.read_structure(package.vocabulary), path=package.folder, tensors=infos)


def _decoder(package: Package, rows: Mapping[str, Rows]) -> tuple[Decoder, dict[str, Floats]]:
    """The model, its views as tensors of their own, and the vectors that its ropes are made with."""
    tensors, sizes = {name: each.tensor for name, each in rows.items()}, package.hyperparameters
    decoder = describe(_file(package, tensors))
    names: tuple[str, ...] = ()
    if sizes.rope_frequencies_long is not None:
        names = (SHORT, LONG)
    elif _ROPE in decoder.optional and "rope_frequencies" in _differing(decoder.stored_sizes(), sizes):
        names = (_ROPE,)
    if names:
        pairs = SourceTensor((max(1, decoder.rope.head_dim // 2),), "F32", 0)
        decoder = describe(_file(package, tensors | dict.fromkeys(names, pairs)))
    factors = {}
    if decoder.rope_factors is not None:
        factors[decoder.rope_factors] = _factors(decoder.rope, sizes.rope_frequencies, package)
    if decoder.rope_long is not None:
        factors[decoder.rope_long.factors] = _factors(decoder.rope_long.rope, sizes.rope_frequencies_long, package)
    return _taken_apart(decoder), factors


def _factors(rope: Rope, frequencies: tuple[float, ...] | None, package: Package) -> Floats:
    """What the angles of a rope were divided by. Frequencies have so many places that single precision is exact."""
    plain = rope.angles()
    known = np.array((frequencies or ())[: len(plain)])
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factors = (plain / known).astype(np.float32) if len(known) == len(plain) else np.zeros(1, np.float32)
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise FormatError(f"{package.folder / MANIFEST}: rope_frequencies are not those of its model; convert again")
    return factors


def _taken_apart(decoder: Decoder) -> Decoder:
    """With the tensors that a graph has, which of some source were parts of others."""
    whole = {view.tensor for view in decoder.views.values()}
    parts = {name: (view.n_rows, decoder.required[view.tensor][-1]) for name, view in decoder.views.items()}
    rest = {name: shape for name, shape in decoder.required.items() if name not in whole}
    return replace(decoder, required={**rest, **parts}, views={})


def _check_sizes(described: Hyperparameters, package: Package) -> None:
    different = _differing(described, package.hyperparameters)
    if different:
        raise FormatError(
            f"{package.folder / MANIFEST}: {', '.join(different)} are not what {package.vocabulary.name} says: the "
            "package is put together from several, or an older edgeinfer's; convert again"
        )


def _differing(some: Hyperparameters, others: Hyperparameters) -> list[str]:
    names = [field.name for field in fields(Hyperparameters)]
    return [name for name in names if not _alike(getattr(some, name), getattr(others, name))]


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_NEAR)
    return bool(one == other)
