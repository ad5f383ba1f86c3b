"""A checkpoint as a GGUF model: which metadata it gets, and of which rows of which tensors each of its tensors is made.
Plain data; knows no files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.huggingface.safetensors import Stored
from edgeinfer.errors import FormatError
from edgeinfer.gguf.header import shown

__all__ = [
    "Description",
    "Shape",
    "Source",
    "Target",
    "Value",
    "check_tensors",
    "copy",
    "interleaved",
    "rows_of",
    "stacked",
]

Shape = tuple[int, ...]
Floats = npt.NDArray[np.float32]
Value = str | bool | int | float | list[str] | npt.NDArray[np.generic]
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the checkpoint, ``shape`` rows first. ``order``: which of its rows, and in which order; None: all as
    they are. Each value becomes (value + ``shift``) * ``scale``."""

    name: str
    shape: Shape
    order: npt.NDArray[np.int64] | None = None
    shift: float = 0.0
    scale: float = 1.0

    @property
    def n_rows(self) -> int:
        return rows_of(self.shape) if self.order is None else len(self.order)


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the GGUF model, ``shape`` rows first: the rows of its sources one after the other, or ``values``."""

    name: str
    shape: Shape
    sources: tuple[Source, ...] = ()
    values: Floats | None = None

    def __post_init__(self) -> None:
        n_rows = rows_of(self.shape)
        made = n_rows if self.values is not None else sum(source.n_rows for source in self.sources)
        if made != n_rows:
            raise FormatError(f"tensor {self.name} has {n_rows} rows, but its sources have {made}")


@dataclass(frozen=True, slots=True)
class Description:
    """``keys`` without the architecture's prefix; ``n_vocab``: how many rows the embedding has, tokens or not.
    ``unused``: names of tensors that are known and not needed. ``notes`` are for the user."""

    architecture: str
    keys: Mapping[str, Value]
    targets: tuple[Target, ...]
    n_vocab: int
    unused: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def rows_of(shape: Shape) -> int:
    """How many rows a tensor of this shape has; a vector is as many rows of one value."""
    return math.prod(shape[:-1]) if len(shape) > 1 else shape[0]


def copy(name: str, source: str, *shape: int, shift: float = 0.0, scale: float = 1.0) -> Target:
    """The tensor as it is, under another name."""
    return Target(name, shape, (Source(source, shape, shift=shift, scale=scale),))


def interleaved(name: str, source: str, shape: Shape, head_dim: int) -> Target:
    """A projection to heads whose rows i and i + half are rotated together, with those rows side by side, as the rope
    of llama.cpp's llama wants them."""
    order = np.arange(shape[0], dtype=np.int64).reshape(-1, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)
    return Target(name, shape, (Source(source, shape, order),))


def stacked(name: str, sources: Iterable[str], *shape: int) -> Target:
    """Matrices of one shape, one after the other along a new first axis."""
    parts = tuple(Source(source, shape) for source in sources)
    return Target(name, (len(parts), *shape), parts)


def check_tensors(described: Description, tensors: Mapping[str, Stored], label: str) -> None:
    """Raise one `FormatError` that names every tensor that is missing, unexpected, or of another shape."""
    wanted = {source.name: source.shape for target in described.targets for source in target.sources}
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - wanted.keys() - described.unused)
    wrong = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in sorted(wanted.items())
        if name in tensors and tensors[name].shape != shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape than config.json says": wrong}
    said = [f"{what}: {_listed(names)}" for what, names in found.items() if names]
    if said:
        raise FormatError(f"{label} does not have the tensors of a {described.architecture} model; {'; '.join(said)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > 4 * _SHOWN else ""
    return ", ".join(shown(name) for name in (names[:_SHOWN] if more else names)) + more
