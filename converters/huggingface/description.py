"""A checkpoint as a GGUF model: which metadata it gets, and of which rows of which tensors each of its tensors is made.
Plain data; knows no files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.sources import Shaped, check_shapes
from edgeinfer.errors import FormatError

__all__ = [
    "Description",
    "Shape",
    "Source",
    "Target",
    "Value",
    "copy",
    "interleaved",
    "rows_of",
    "stacked",
]

Shape = tuple[int, ...]
Floats = npt.NDArray[np.float32]
Value = str | bool | int | float | list[str] | npt.NDArray[np.generic]


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

    def check(self, tensors: Mapping[str, Shaped], label: str) -> None:
        """Raise one `FormatError` that names every tensor that is missing, unexpected, or of another shape."""
        wanted = {source.name: source.shape for target in self.targets for source in target.sources}
        check_shapes(tensors, wanted, f"{label} does not have the tensors of a {self.architecture} model", self.unused)


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
