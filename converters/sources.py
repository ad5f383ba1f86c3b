"""Where the tensors of a model come from: a protocol that converters read through, GGUF files behind it, and sources
that show another's tensors otherwise.

A source says what there is and gives rows of blocks; what the tensors mean is said by `converters.architectures`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import FormatError
from edgeinfer.gguf import GGUFFile
from edgeinfer.gguf.header import open_regular, shown

__all__ = [
    "Bytes",
    "GGUFSource",
    "Shaped",
    "SourceTensor",
    "TensorSource",
    "View",
    "ViewSource",
    "check_shapes",
    "pieces",
]

Bytes = npt.NDArray[np.uint8]
_MOST_NAMED = 1000
"""Tensors that one message names; of more, a damaged file may have a million, it names a few."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """``shape`` with rows first, the innermost dimension last; ``type`` a name of `edgeinfer.gguf.TENSOR_TYPES`;
    ``row_bytes`` the blocks of one row. ``made_from``: its type in the model, where it was computed from that."""

    shape: tuple[int, ...]
    type: str
    row_bytes: int
    made_from: str = ""

    @property
    def n_rows(self) -> int:
        """Rows of a matrix, or of several that lie one behind the other; a vector is one row."""
        return math.prod(self.shape[:-1])

    @property
    def n_cols(self) -> int:
        return self.shape[-1]


class TensorSource(Protocol):
    """A model's tensors under their GGUF names. ``label`` names the source in messages."""

    @property
    def label(self) -> str: ...

    @property
    def tensors(self) -> Mapping[str, SourceTensor]: ...

    def rows(self, name: str, first: int, n_rows: int) -> Bytes:
        """The blocks of some rows, uint8 ``(n_rows, row_bytes)``, a new array. Raises `FormatError` where the bytes are
        not there any more."""
        ...


class GGUFSource:
    """The tensors of a GGUF model, which may have parts. Files stay open until it is closed, and are read, not mapped:
    one that shrinks meanwhile is then an error and not a signal."""

    def __init__(self, file: GGUFFile) -> None:
        self.label = str(file.path)
        self._infos = file.tensors
        self._open = ExitStack()
        self._streams: dict[Path, IO[bytes]] = {}
        self.tensors = {
            name: SourceTensor(info.shape[::-1], info.type.name, info.n_bytes // (info.n_elements // info.shape[0]))
            for name, info in file.tensors.items()
        }

    def __enter__(self) -> GGUFSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def rows(self, name: str, first: int, n_rows: int) -> Bytes:
        tensor, info = self.tensors[name], self._infos[name]
        stream = self._streams.get(info.path)
        if stream is None:
            stream = self._streams[info.path] = self._open.enter_context(open_regular(info.path))
        blocks = np.empty((n_rows, tensor.row_bytes), np.uint8)
        stream.seek(info.offset + first * tensor.row_bytes)
        room = blocks.reshape(-1).data
        while room:
            got = stream.readinto(room)  # type: ignore[attr-defined]
            if not got:
                raise FormatError(f"{info.path} became shorter while tensor {name} was read")
            room = room[got:]
        return blocks


@dataclass(frozen=True, slots=True)
class View:
    """Some rows of a source's tensor as a matrix of their own."""

    tensor: str
    first: int
    n_rows: int


class ViewSource:
    """A source in which some tensors are taken apart: views have names of their own, and what they are of is gone."""

    def __init__(self, source: TensorSource, views: Mapping[str, View]) -> None:
        self.label = source.label
        self._source = source
        self._views = views
        apart = {view.tensor for view in views.values()}
        self.tensors = {name: tensor for name, tensor in source.tensors.items() if name not in apart}
        for name, view in views.items():
            whole = source.tensors[view.tensor]
            self.tensors[name] = SourceTensor((view.n_rows, whole.n_cols), whole.type, whole.row_bytes)

    def rows(self, name: str, first: int, n_rows: int) -> Bytes:
        view = self._views.get(name)
        if view is None:
            return self._source.rows(name, first, n_rows)
        return self._source.rows(view.tensor, view.first + first, n_rows)


def pieces(tensor: SourceTensor, n_bytes: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of pieces of about ``n_bytes`` each, whole multiples of ``multiple`` rows."""
    step = max(multiple, n_bytes // tensor.row_bytes // multiple * multiple)
    for first in range(0, tensor.n_rows, step):
        yield first, min(step, tensor.n_rows - first)


class Shaped(Protocol):
    """Anything with a shape, rows first."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def check_shapes(
    tensors: Mapping[str, Shaped],
    required: Mapping[str, tuple[int, ...]],
    what: str,
    ignored: Collection[str] = (),
    optional: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Raise one `FormatError`, which begins with ``what`` and names every tensor that is missing, unexpected, or of
    another shape."""
    known = {**required, **(optional or {})}
    wrong = [
        f"{shown(name)} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in sorted(known.items())
        if name in tensors and tensors[name].shape != shape
    ]
    found = {
        "missing": [*map(shown, sorted(required.keys() - tensors.keys()))],
        "unexpected": [*map(shown, sorted(tensors.keys() - known.keys() - set(ignored)))],
        "of another shape, rows first": wrong,
    }
    said = [f"{how}: {_listed(names)}" for how, names in found.items() if names]
    if said:
        raise FormatError(f"{what}; {'; '.join(said)}")


def _listed(names: list[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:12])} and {len(names) - 12} more"
