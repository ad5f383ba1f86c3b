"""Rows of logits on disk, so that one model can be closed before the next is opened, and memory stays flat.

The file has no name where the system allows that, and goes with the process however it ends."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgeinfer import env, files
from edgeinfer.engines.base import Logits
from edgeinfer.errors import UsageError

__all__ = ["Recording"]

_WIDE_BYTES = 1 << 30  # beyond this rows are kept in half precision
_SPARE_BYTES = 256 << 20  # of the disk, left to everybody else


class Recording:
    """``n_rows`` rows of ``n_vocab`` logits. Float32, or, where that would be more than 1 GiB, float16 below each row's
    best: probabilities then err by a few parts in a thousand where they matter, a divergence by some 1e-6.

    Raises `UsageError` where the disk of ``folder`` (default: the cache folder) has no room."""

    def __init__(self, n_rows: int, n_vocab: int, folder: Path | None = None, *, wide_bytes: int = _WIDE_BYTES) -> None:
        self.dtype = np.dtype(np.float32 if 4 * n_rows * n_vocab <= wide_bytes else np.float16)
        self._n_vocab, self._n_written = n_vocab, 0
        folder = files.private_dir(folder or env.cache_dir())
        n_bytes, free = n_rows * n_vocab * self.dtype.itemsize, shutil.disk_usage(folder).free
        if n_bytes + _SPARE_BYTES > free:
            raise UsageError(
                f"the first model's logits of {n_rows} positions take {n_bytes >> 20} MiB on disk, and {folder} has "
                f"{free >> 20} MiB left; take fewer positions"
            )
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`

    @property
    def precise(self) -> bool:
        """Whether rows are kept as they came."""
        return self.dtype == np.float32

    def stored(self, rows: Logits) -> npt.NDArray[np.floating]:
        """Rows as they are kept. What is compared with a recording goes through this too, so that the same logits are
        the same."""
        if self.precise:
            return rows
        return np.asarray((rows - rows.max(axis=1, keepdims=True)).astype(np.float16))

    def append(self, rows: Logits) -> None:
        """Add rows at the end."""
        self._file.write(np.ascontiguousarray(self.stored(rows)).tobytes())
        self._n_written += len(rows)

    def rewind(self) -> None:
        """`read` begins again with the first row."""
        self._file.seek(0)

    def read(self, n: int) -> npt.NDArray[np.floating]:
        """The next ``n`` rows, in a new array. Raises `UsageError` past the end."""
        found = np.frombuffer(self._file.read(n * self._n_vocab * self.dtype.itemsize), self.dtype)
        if found.size != n * self._n_vocab:
            raise UsageError(f"{n} more rows are asked for, but only {self._n_written} were recorded")
        return found.reshape(n, self._n_vocab)

    def close(self) -> None:
        """Delete it. Closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
