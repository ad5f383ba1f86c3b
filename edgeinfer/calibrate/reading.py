"""A model that reads a text while its products tell what they are fed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgeinfer import gguf, kernels
from edgeinfer.engines.base import Slice
from edgeinfer.errors import BackendUnavailable, UnsupportedModel, UsageError
from edgeinfer.kernels.collecting import Collected, collecting
from edgeinfer.opening import Opened
from edgeinfer.side import Side, opened
from edgeinfer.text import Tokenizer
from edgeinfer.verify.forced import windows

__all__ = ["Calibrator", "Products", "Sample", "Squares", "cut"]

Floats = npt.NDArray[np.float32]
Told = Callable[[int, int], None]
"""Hears how far a long piece of work is: (done, total)."""

_CHUNK = 256
"""Tokens of one pass."""
_LOGITS_SHARE = 4
"""Of so many tokens one gets logits: those alone reach the output head, and in llama.cpp the end of the last layer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A text to read, at most ``n_tokens`` of it, in windows of ``n_window``. ``name``: what to call it."""

    text: str
    name: str
    sha256: str
    n_tokens: int = 32768
    n_window: int = 512

    @classmethod
    def of(cls, text: str, name: str, n_tokens: int = 32768) -> Sample:
        """Raises `UsageError` for a text of nothing."""
        if not text.strip():
            raise UsageError(f"{name} has no text to calibrate with")
        return cls(text, name, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), n_tokens)


@dataclass(frozen=True, slots=True)
class Squares:
    """Of one weight or of each of its experts: ``sums`` float32 ``(n_experts, n_cols)`` of squares of activations,
    ``counts`` float32 ``(n_experts,)`` of activations."""

    sums: Floats
    counts: Floats


@dataclass(frozen=True, slots=True)
class Products:
    """Of one weight: float32 ``(n_cols, n_cols)``, X^T X over ``n_rows`` activations."""

    sums: Floats
    n_rows: int


class Calibrator:
    """One open GGUF model and the text that it reads, as often as it is asked for something.

    Raises `BackendUnavailable` where our kernels cannot run under llama.cpp, `UnsupportedModel` for what is no GGUF
    model that reads from left to right, `UsageError` for a text that is too short, and as `open_model`."""

    def __init__(
        self, model: str, sample: Sample, *, memory: str | int | None = None, told: Told = lambda _done, _total: None
    ) -> None:
        self.sample = sample
        self.told = told
        """Hears of each reading."""
        self._until_closed = contextlib.ExitStack()
        side = Side(model, parallel=1)
        self._opened: Opened = self._until_closed.enter_context(opened(side, sample.n_window, memory))
        try:
            self.file = _gguf_of(self._opened)
            _check_kernels()
            self._windows = cut(sample, self._opened.tokenizer, sample.n_window)
        except BaseException:
            self._until_closed.close()
            raise

    @property
    def n_tokens(self) -> int:
        """Of the text that are read."""
        return sum(map(len, self._windows))

    @property
    def n_windows(self) -> int:
        return len(self._windows)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(n_experts, n_cols) of each weight that may be multiplied with: matrices, and the table of embeddings where
        it is the output head too."""
        tensors = self.file.tensors
        return {
            name: (tensor.shape[2] if len(tensor.shape) == 3 else 1, tensor.shape[0])
            for name, tensor in tensors.items()
            if len(tensor.shape) in (2, 3)
            and name.endswith(".weight")
            and not (name == "token_embd.weight" and "output.weight" in tensors)
        }

    def squares(self) -> dict[str, Squares]:
        """Of every weight that our products were asked for, in one reading of the text."""
        with collecting(self.shapes()) as found:
            for _ in self._read():
                pass
        return {
            name: Squares(one.sums.astype(np.float32), one.counts.astype(np.float32))
            for name, one in found.items()
            if one.counts.any()
        }

    def products(self, names: Sequence[str]) -> dict[str, Products]:
        """Of these weights, in one reading. In memory: n_cols^2 floats for each. Weights of experts are left out, and
        those that our products were not asked for."""
        shapes = self.shapes()
        wanted = {name: shapes[name] for name in names if name in shapes and shapes[name][0] == 1}
        sums = {name: np.zeros((n_cols, n_cols), np.float32) for name, (_, n_cols) in wanted.items()}
        with collecting(wanted, rows_of=[*wanted], most_rows=_CHUNK) as found:
            for _ in self._read():
                _add(found, sums)
        return {name: Products(sums[name], int(one.counts[0])) for name, one in found.items() if one.counts[0]}

    def _read(self) -> Iterator[None]:
        """Each pass over some tokens."""
        engine, done = self._opened.engine, 0
        step = min(_CHUNK, engine.n_batch)
        try:
            for window in self._windows:
                engine.release(0)
                for begin in range(0, len(window), step):
                    ids = window[begin : begin + step]
                    engine.forward([Slice(0, ids, begin, -(-len(ids) // _LOGITS_SHARE))])
                    yield
                    done += len(ids)
                    self.told(done, self.n_tokens)
        finally:
            engine.release(0)

    def close(self) -> None:
        """Twice is harmless."""
        self._until_closed.close()

    def __enter__(self) -> Calibrator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _add(found: Mapping[str, Collected], sums: Mapping[str, Floats]) -> None:
    for name, one in found.items():
        rows = one.taken()
        sums[name] += rows.T @ rows  # one array with itself: NumPy computes half of it


def _gguf_of(model: Opened) -> gguf.GGUFFile:
    path = Path(model.info.path) if model.info else None
    if path is None or path.is_dir():
        raise UnsupportedModel("calibration reads a text with a GGUF model; give the one that this was made from")
    file = gguf.read(path)
    if not file.metadata.get(f"{file.architecture}.attention.causal", True):
        raise UnsupportedModel(f"{path} is an encoder; calibration reads a text from left to right")
    return file


def _check_kernels() -> None:
    report = kernels.install()
    if not report.active:
        raise BackendUnavailable(f"calibration needs our kernels under llama.cpp: {report.why}")


def cut(sample: Sample, tokenizer: object, n_window: int) -> list[npt.NDArray[np.int32]]:
    """The text as token ids, in windows. Raises `UsageError` for one that is too short, `UnsupportedModel` without a
    tokenizer."""
    if not isinstance(tokenizer, Tokenizer):
        raise UnsupportedModel("calibration needs the model's tokenizer")
    bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
    return [window.inputs for window in windows(tokenizer.encode(sample.text), sample.n_tokens, n_window, bos_id)]
