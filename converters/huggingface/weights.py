"""A checkpoint's weights as floats, some rows at a time, so that no tensor is in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Source, Target, rows_of
from edgeinfer.converters.huggingface.safetensors import ITEM_BYTES, Stored
from edgeinfer.errors import FormatError, UnsupportedModel
from edgeinfer.gguf.header import open_regular

__all__ = ["FLOAT_TYPES", "Weights"]

Floats = npt.NDArray[np.float32]
FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
_PIECE_ELEMENTS = 1 << 22


class Weights:
    """Reads a checkpoint's files, which stay open until it is closed. They are read, not mapped: a file that shrinks
    meanwhile is then an error and not a signal, and what was read does not count as this process's memory."""

    def __init__(self, checkpoint: Checkpoint, report: Callable[[int], None] = lambda _n_bytes: None) -> None:
        self._tensors = checkpoint.tensors
        self._report = report
        self._open = ExitStack()
        self._streams: dict[Path, IO[bytes]] = {}

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def pieces(self, target: Target) -> Iterator[Floats]:
        """The tensor in pieces of whole rows, float32 ``(rows, row length)``. Raises `FormatError` where the files end
        too soon, `UnsupportedModel` for values that are no floats."""
        if target.values is not None:
            yield target.values.reshape(-1, target.shape[-1])
        for source in target.sources:
            for rows in self._rows(source):
                yield (rows + np.float32(source.shift)) * np.float32(source.scale) if _changes(source) else rows

    def rows(self, target: Target, first: int, n_rows: int) -> Floats:
        """Some rows of the tensor, float32 ``(n_rows, row length)``; a vector is as many rows of one value. Raises as
        `pieces` does."""
        if target.values is not None:
            return target.values.reshape(rows_of(target.shape), -1)[first : first + n_rows]
        found, begin = [], 0
        for source in target.sources:
            low, high = max(first, begin) - begin, min(first + n_rows, begin + source.n_rows) - begin
            if low < high:
                rows = self._between(source, low, high)
                found.append((rows + np.float32(source.shift)) * np.float32(source.scale) if _changes(source) else rows)
            begin += source.n_rows
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _rows(self, source: Source) -> Iterator[Floats]:
        step = max(1, _PIECE_ELEMENTS // _n_cols(self._tensors[source.name]))
        for first in range(0, source.n_rows, step):
            yield self._between(source, first, min(source.n_rows, first + step))

    def _between(self, source: Source, first: int, end: int) -> Floats:
        stored = self._tensors[source.name]
        if stored.dtype not in FLOAT_TYPES:
            raise UnsupportedModel(
                f"{stored.path}: tensor {source.name} is of type {stored.dtype}; only {', '.join(FLOAT_TYPES)} are "
                "converted: give a checkpoint that is not quantized"
            )
        if source.order is None:
            return self._some(stored, _n_cols(stored), first, end)
        return self._picked(stored, _n_cols(stored), source.order[first:end])

    def _picked(self, stored: Stored, n_cols: int, order: npt.NDArray[np.int64]) -> Floats:
        """Rows in another order, which is never far from the one in the file."""
        low, high = int(order.min()), int(order.max()) + 1
        return self._some(stored, n_cols, low, high)[order - low]

    def _some(self, stored: Stored, n_cols: int, first: int, end: int) -> Floats:
        item = ITEM_BYTES[stored.dtype]
        data = np.empty((end - first) * n_cols * item, np.uint8)
        self._read(stored, first * n_cols * item, data)
        self._report(data.size)
        return _floats(data, stored.dtype).reshape(end - first, n_cols)

    def _read(self, stored: Stored, offset: int, into: npt.NDArray[np.uint8]) -> None:
        stream: Any = self._streams.get(stored.path)
        if stream is None:
            stream = self._streams[stored.path] = self._open.enter_context(open_regular(stored.path))
        stream.seek(stored.offset + offset)
        room = into.data
        while room:
            got = stream.readinto(room)
            if not got:
                raise FormatError(f"{stored.path} became shorter while tensor {stored.name} was read")
            room = room[got:]


def _n_cols(stored: Stored) -> int:
    return stored.shape[-1] if len(stored.shape) > 1 else 1


def _changes(source: Source) -> bool:
    return source.shift != 0 or source.scale != 1


def _floats(data: npt.NDArray[np.uint8], dtype: str) -> Floats:
    if dtype == "BF16":
        wide = np.zeros((data.size // 2, 2), "<u2")
        wide[:, 1] = data.view("<u2")
        return wide.view("<f4").reshape(-1)
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]
    return data.view(kind).astype(np.float32, copy=False)


def n_bytes_of(target: Target, checkpoint: Checkpoint) -> int:
    """What reading the tensor reads, in bytes."""
    total = 0
    for source in target.sources:
        stored = checkpoint.tensors[source.name]
        total += source.n_rows * _n_cols(stored) * ITEM_BYTES[stored.dtype]
    return total
