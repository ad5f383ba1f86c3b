"""The matrices and vectors of a package's graphs, read row by row out of their data files. Knows the layouts that
`row_matrices`, `expert_matrices` and `column_matrices` write; no model, and no order of heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.sources import Bytes, SourceTensor
from edgeinfer.converters.to_onnx.forms import (
    CORRECTION_BLOCK,
    OFFSET_STEP,
    OWN,
    Form,
    Parts,
    joined,
    own_type,
    restored_offsets,
)
from edgeinfer.errors import FormatError
from edgeinfer.gguf.header import open_regular
from edgeinfer.kernels.formats.packing import from_nibbles
from edgeinfer.onnx.package import Package, TensorForm, Variant

if TYPE_CHECKING:
    import onnx

__all__ = ["DataFiles", "Rows", "stored_rows"]

Floats = npt.NDArray[np.float32]
_FLOAT, _UINT8, _INT8, _HALF, _BRAIN, _INT4 = 1, 2, 3, 10, 16, 22
_FLOATS = {_FLOAT: ("F32", 4), _HALF: ("F16", 2), _BRAIN: ("BF16", 2)}
_BITS = {_FLOAT: 32, _UINT8: 8, _INT8: 8, _HALF: 16, _BRAIN: 16, _INT4: 4}
_FIRST = ".first"
_TYPES = "token_types.weight"
_GATE, _UP, _JOINED = "ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_gate_up_exps.weight"


class Rows(Protocol):
    """A tensor of a graph. ``read`` answers rows as `TensorSource.rows` does."""

    @property
    def tensor(self) -> SourceTensor: ...

    def read(self, first: int, n_rows: int) -> Bytes: ...


@dataclass(frozen=True, slots=True)
class _Region:
    path: Path
    offset: int
    kind: int
    shape: tuple[int, ...]


class DataFiles:
    """The initializers of one graph that lie in files beside it, which `read_graph` has proven to end within these.
    Files are read, not mapped: one that shrinks meanwhile is then an error and not a signal."""

    def __init__(self, package: Package, variant: Variant, proto: onnx.ModelProto) -> None:
        self._where = package.folder
        self._open = ExitStack()
        self._streams: dict[Path, IO[bytes]] = {}
        folder = variant.model.rpartition("/")[0]
        self._regions: dict[str, _Region] = {}
        for tensor in proto.graph.initializer:
            about = {entry.key: entry.value for entry in tensor.external_data}
            if tensor.data_location == 1:
                path = package.path(f"{folder}/{about['location']}" if folder else about["location"])
                offset = int(about.get("offset", "0"))
                self._regions[tensor.name] = _Region(path, offset, tensor.data_type, tuple(tensor.dims))

    def close(self) -> None:
        self._open.close()

    def __contains__(self, name: str) -> bool:
        return name in self._regions

    def kind(self, name: str, n_dims: int, *known: int) -> int:
        """The type of an initializer, one of those ``known``. Raises `FormatError` for any other, and for another
        number of dimensions."""
        region = self._region(name)
        if region.kind not in known or len(region.shape) != n_dims or not math.prod(region.shape):
            raise self.fail(name, f"is of type {region.kind} and shape {list(region.shape)[:8]}")
        return region.kind

    def shape(self, name: str) -> tuple[int, ...]:
        return self._region(name).shape

    def read(self, name: str, at: int, n_bytes: int) -> Bytes:
        """Some of its bytes, a new array."""
        region = self._region(name)
        if at + n_bytes > math.prod(region.shape) * _BITS[region.kind] // 8:
            raise self.fail(name, "is shorter than another that belongs to it")
        if region.path not in self._streams:
            self._streams[region.path] = self._open.enter_context(open_regular(region.path))
        stream, found = self._streams[region.path], np.empty(n_bytes, np.uint8)
        stream.seek(region.offset + at)
        room = found.data
        while room:
            got = stream.readinto(room)  # type: ignore[attr-defined]
            if not got:
                raise FormatError(f"{region.path} became shorter while weight {name} was read")
            room = room[got:]
        return found

    def floats(self, name: str, at: int, shape: tuple[int, ...]) -> Floats:
        """Numbers from its number ``at`` on. Raises `FormatError` where one is none."""
        found = self.read(name, 4 * at, 4 * math.prod(shape)).view("<f4").reshape(shape)
        if not np.isfinite(found).all():
            raise self.fail(name, "has values that are no numbers")
        return found

    def fail(self, name: str, what: str) -> FormatError:
        return FormatError(f"{self._where}: weight {name[:80]!r} {what}, which no graph of ours has; convert again")

    def _region(self, name: str) -> _Region:
        if name not in self._regions:
            raise FormatError(f"{self._where}: weight {name[:80]!r} is missing from its graph; convert again")
        return self._regions[name]


def stored_rows(files: DataFiles, forms: Mapping[str, TensorForm], *, by_columns: bool) -> dict[str, Rows]:
    """All tensors that the manifest names, by their names in the source, in the rows' order of the graph.
    ``by_columns``: of variant npu. Raises `FormatError` for one that is not as the manifest says."""
    found: dict[str, Rows] = {}
    for name, form in forms.items():
        if form.form == "float":
            found[name] = _FloatRows(files, _Place.of(name))
        else:
            kind = _form(name, form)
            if kind.zero_points and by_columns:
                raise FormatError(f"tensor {name[:80]!r} is said to have zero points, which no graph for NPUs has")
            found[name] = _ColumnRows(files, name, kind) if by_columns else _BlockRows(files, _Place.of(name), kind)
    if _TYPES + _FIRST in files:
        found[_TYPES] = _FloatRows(files, _Place(_TYPES + _FIRST))
    return found


def _form(name: str, stored: TensorForm) -> Form:
    form = Form(8 if stored.form == "nbits8" else 4, stored.block, stored.correction, zero_points=stored.zero_points)
    if OWN.get(own_type(form)) != form:
        points = " with zero points" if stored.zero_points else ""
        raise FormatError(
            f"tensor {name[:80]!r} is said to have blocks of {stored.block}{points}, which no graph of ours has"
        )
    return form


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor is the rows ``first``, ``first`` + ``step``, … of an initializer; ``stacked``: of several experts."""

    region: str
    first: int = 0
    step: int = 1
    stacked: bool = False

    @classmethod
    def of(cls, name: str) -> _Place:
        at, _, part = name.rpartition(".ffn_")
        for first, which in enumerate((_GATE, _UP)):
            if f"ffn_{part}" == which:
                return cls(f"{at}.{_JOINED}", first, 2, stacked=True)
        return cls(name, stacked=name.endswith("_exps.weight"))

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Of this tensor in an initializer of that shape."""
        return (*stored[:-2], stored[-2] // self.step, stored[-1]) if len(stored) > 1 else stored

    def read(self, files: DataFiles, suffix: str, first: int, n_rows: int, row_bytes: int) -> Bytes:
        raw = files.read(self.region + suffix, first * self.step * row_bytes, n_rows * self.step * row_bytes)
        return np.ascontiguousarray(raw.reshape(n_rows, self.step, row_bytes)[:, self.first])


class _FloatRows:
    """Floats as they are."""

    def __init__(self, files: DataFiles, place: _Place) -> None:
        self._files, self._place = files, place
        shape = files.shape(place.region)
        n_dims = 3 if place.stacked else 1 + (len(shape) > 1)
        kind, n_bytes = _FLOATS[files.kind(place.region, n_dims, *_FLOATS)]
        shape = place.shape(shape)
        self.tensor = SourceTensor(shape, kind, n_bytes * shape[-1])

    def read(self, first: int, n_rows: int) -> Bytes:
        return self._place.read(self._files, "", first, n_rows, self.tensor.row_bytes)


class _BlockRows:
    """Blocks along rows: `RowMatrices`, and `ExpertMatrices`, which have no offsets."""

    def __init__(self, files: DataFiles, place: _Place, form: Form) -> None:
        self._files, self._place, self._form = files, place, form
        scales, q = f"{place.region}.scales", f"{place.region}.q"
        files.kind(scales, 3 if place.stacked else 2, _FLOAT)
        files.kind(q, 3, _UINT8)
        *rows, self._n_blocks = place.shape(files.shape(scales))
        stored = files.shape(q)
        self._q_bytes = self._n_blocks * form.block * form.bits // 8
        if stored != (*files.shape(scales), form.block * form.bits // 8) and not (
            place.stacked and stored == (*files.shape(scales)[:-1], self._q_bytes)
        ):
            raise files.fail(q, f"is of shape {list(stored)}")
        n_cols = self._n_blocks * form.block
        if form.corrected:
            self._check_offsets(n_cols // OFFSET_STEP)
        if form.zero_points:
            self._check_zeros()
        elif f"{place.region}.zeros" in files:
            raise files.fail(place.region, "is said to have no zero points, but has some")
        row_bytes = self._q_bytes + self._n_blocks * (4 * (2 if form.corrected else 1) + form.zero_points)
        self.tensor = SourceTensor((*rows, n_cols), own_type(form), row_bytes)

    def _check_zeros(self) -> None:
        """Which experts do not have."""
        name = f"{self._place.region}.zeros"
        self._files.kind(name, 2, _UINT8)
        scales, found = self._files.shape(f"{self._place.region}.scales"), self._files.shape(name)
        if found != (*scales[:-1], -(-scales[-1] // 2)):
            raise self._files.fail(name, f"is of shape {list(found)}")

    def _check_offsets(self, n: int) -> None:
        at = f"{self._place.region}.correction"
        self._files.kind(f"{at}.q", 2, _UINT8)
        self._files.kind(f"{at}.scales", 2, _FLOAT)
        (n_rows, found), scales = self._files.shape(f"{at}.q"), self._files.shape(f"{at}.scales")
        if (
            found != n
            or scales != (n_rows, -(-n // CORRECTION_BLOCK))
            or n_rows != self._files.shape(f"{self._place.region}.q")[0]
        ):
            raise self._files.fail(f"{at}.q", f"is of shape {[n_rows, found]}")

    def read(self, first: int, n_rows: int) -> Bytes:
        place, form = self._place, self._form
        q = place.read(self._files, ".q", first, n_rows, self._q_bytes).reshape(n_rows, self._n_blocks, -1)
        scales = place.read(self._files, ".scales", first, n_rows, 4 * self._n_blocks).view("<f4")
        if not np.isfinite(scales).all():
            raise self._files.fail(f"{place.region}.scales", "has values that are no numbers")
        offsets = self._offsets(first, n_rows) if form.corrected else None
        return joined(Parts(q, scales, offsets, self._zeros(first, n_rows) if form.zero_points else None))

    def _zeros(self, first: int, n_rows: int) -> Bytes:
        n_bytes = -(-self._n_blocks // 2)
        packed = self._place.read(self._files, ".zeros", first, n_rows, n_bytes)
        return from_nibbles(packed, 1)[:, : self._n_blocks].astype(np.uint8)

    def _offsets(self, first: int, n_rows: int) -> Floats:
        at = f"{self._place.region}.correction"
        n, n_groups = self._files.shape(f"{at}.q")[1], self._files.shape(f"{at}.scales")[1]
        q = self._files.read(f"{at}.q", first * n, n_rows * n).reshape(n_rows, n)
        scales = self._files.floats(f"{at}.scales", first * n_groups, (n_rows, n_groups))
        return restored_offsets(q, scales, CORRECTION_BLOCK)


class _ColumnRows:
    """Blocks down columns: `ColumnMatrices`. A matrix is in memory whole while its rows are asked for."""

    def __init__(self, files: DataFiles, name: str, form: Form) -> None:
        self._files, self._name, self._form = files, name, form
        self._packed = files.kind(f"{name}.q", 2, _INT8, _INT4) == _INT4
        files.kind(f"{name}.scales", 2, _FLOAT)
        self._n_cols, self._n_rows = files.shape(f"{name}.q")
        if files.shape(f"{name}.scales") != (self._n_cols // form.block, self._n_rows) or (
            self._n_cols % form.block or (self._packed and (form.bits != 4 or self._n_rows % 2))
        ):
            raise files.fail(f"{name}.q", f"is of shape {[self._n_cols, self._n_rows]}")
        n_blocks = self._n_cols // form.block
        row_bytes = self._n_cols * form.bits // 8 + 4 * n_blocks * (2 if form.corrected else 1)
        self.tensor = SourceTensor((self._n_rows, self._n_cols), own_type(form), row_bytes)
        self._whole: tuple[Bytes, Floats, Floats | None] | None = None

    def read(self, first: int, n_rows: int) -> Bytes:
        q, scales, offsets = self._whole or self._read()
        self._whole = None if first + n_rows == self._n_rows else (q, scales, offsets)
        rows = slice(first, first + n_rows)
        steps = self._steps(q, first, n_rows)
        if self._form.bits == 4:
            steps = (steps[:, 0::2] | steps[:, 1::2] << 4).astype(np.uint8, copy=False)
        steps = np.ascontiguousarray(steps).reshape(n_rows, self._n_cols // self._form.block, -1)
        parts = Parts(steps, np.ascontiguousarray(scales[:, rows].T), None if offsets is None else offsets[rows])
        return joined(parts)

    def _read(self) -> tuple[Bytes, Floats, Floats | None]:
        n_bytes = self._n_rows // 2 if self._packed else self._n_rows
        q = self._files.read(f"{self._name}.q", 0, self._n_cols * n_bytes).reshape(self._n_cols, n_bytes)
        n_blocks = self._n_cols // self._form.block
        scales = self._files.floats(f"{self._name}.scales", 0, (n_blocks, self._n_rows))
        return q, scales, self._offsets() if self._form.corrected else None

    def _offsets(self) -> Floats:
        at, n = f"{self._name}.correction", self._n_cols // OFFSET_STEP
        self._files.kind(f"{at}.q", 2, _INT8)
        self._files.kind(f"{at}.scales", 1, _FLOAT)
        if self._files.shape(f"{at}.q")[1] != self._n_rows or self._files.shape(f"{at}.scales") != (self._n_rows,):
            raise self._files.fail(f"{at}.q", f"is of shape {list(self._files.shape(f'{at}.q'))}")
        q = self._files.read(f"{at}.q", 0, n * self._n_rows).reshape(n, self._n_rows) ^ np.uint8(128)
        scales = self._files.floats(f"{at}.scales", 0, (self._n_rows, 1))
        return restored_offsets(np.ascontiguousarray(q.T), scales, n)

    def _steps(self, q: Bytes, first: int, n_rows: int) -> Bytes:
        """Weights of some rows, a byte each, around the middle of their range, (n_rows, columns)."""
        if not self._packed:
            whole = q[:, first : first + n_rows].T
            unsigned: Bytes = whole ^ np.uint8(128) if self._form.bits == 8 else whole + np.uint8(8) & np.uint8(15)
            return unsigned
        low, high = first // 2, -(-(first + n_rows) // 2)
        pairs = q[:, low:high]
        apart = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(self._n_cols, -1) ^ np.uint8(8)
        steps: Bytes = apart[:, first - 2 * low : first - 2 * low + n_rows].T
        return steps
