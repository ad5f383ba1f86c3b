"""What the products of the plug-in are fed while a model computes: squares of activations added up for each column of
each weight, and where it is wanted the activations themselves.

Mirrors ``ei_collection`` of ``edgeinfer_kernels.h``. Knows nothing of what the sums are for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import UsageError
from edgeinfer.kernels import library

__all__ = ["Collected", "collecting"]

_MOST_NAME = 63


@dataclass(slots=True)
class Collected:
    """Of one weight: ``sums`` float64 ``(n_experts, n_cols)`` of squares, ``counts`` int64 ``(n_experts,)`` of
    activations. ``rows`` float32 ``(most_rows, n_cols)`` where they are wanted, of which ``n_rows`` are there."""

    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float32] | None = None
    _n_rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def taken(self) -> npt.NDArray[np.float32]:
        """The rows since the last call: a view that is valid until the model computes again. Not while it computes."""
        if self.rows is None:
            raise UsageError("no rows of this weight are collected")
        n = int(self._n_rows[0])
        self._n_rows[0] = 0
        return self.rows[:n]


class _Entry(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * (_MOST_NAME + 1)),
        ("n_cols", ctypes.c_int64),
        ("n_experts", ctypes.c_int64),
        ("sums", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("most_rows", ctypes.c_int64),
        ("n_rows", ctypes.c_void_p),
    )


class _Collection(ctypes.Structure):
    _fields_ = (("entries", ctypes.POINTER(_Entry)), ("n_entries", ctypes.c_int64))


@contextmanager
def collecting(
    shapes: Mapping[str, tuple[int, int]], *, rows_of: Sequence[str] = (), most_rows: int = 0
) -> Iterator[dict[str, Collected]]:
    """Around computing: what the weights of these names are fed, ``(n_experts, n_cols)`` each; of those in
    ``rows_of``, up to ``most_rows`` activations between two calls of `Collected.taken`.

    One at a time in a process; no model may be computing when the block begins or ends. A weight that stays with
    llama.cpp's own products counts nothing. Raises `BackendUnavailable` without the library.
    """
    kernels = library.load()
    found: dict[str, Collected] = {}
    entries = []
    for name in sorted(shapes, key=str.encode):
        if len(name.encode()) > _MOST_NAME:
            continue  # ggml cuts such names off, so that no product would be told apart
        n_experts, n_cols = shapes[name]
        rows = np.empty((most_rows, n_cols), np.float32) if name in rows_of else None
        one = Collected(np.zeros((n_experts, n_cols)), np.zeros(n_experts, np.int64), rows)
        found[name] = one
        fields = (one.sums.ctypes.data, one.counts.ctypes.data, None if rows is None else rows.ctypes.data)
        entries.append(_Entry(name.encode(), n_cols, n_experts, *fields, most_rows, one._n_rows.ctypes.data))
    table = (_Entry * len(entries))(*entries)
    collection = _Collection(table, len(entries))
    kernels.ei_ggml_collect(ctypes.addressof(collection))
    try:
        yield found
    finally:
        kernels.ei_ggml_collect(None)
