"""An ONNX package that reads a text while somebody looks at values inside its graph: what ranges they have is for who
looks to say. The largest of its graphs of fixed shapes is run on the CPU, in windows that it fills without padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinfer import device
from edgeinfer.calibrate.reading import Sample
from edgeinfer.engines import ort_provider
from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.ort_session import Stop
from edgeinfer.engines.ort_static import StaticGraphs, Watch
from edgeinfer.errors import NumericError, UnsupportedModel, UsageError
from edgeinfer.onnx import package as packages
from edgeinfer.onnx.package import Calibration
from edgeinfer.text import Tokenizer
from edgeinfer.verify.forced import windows

__all__ = ["LEAST_TOKENS", "Watcher"]

Floats = npt.NDArray[np.float32]
Told = Callable[[int, int], None]
Seen = Callable[[str, Floats], None]
"""Gets the name of a value and what it is for some tokens, valid until it returns."""

LEAST_TOKENS = 256
"""A text of fewer says nothing: not one of its values in ten thousand would be known."""


class Watcher:
    """``folder``: a package with variant npu. Values are those of its largest graph. In memory: these values for the
    tokens of one pass.

    Raises `UsageError` for a text that is too short, and what `packages.read` and `StaticGraphs` raise."""

    def __init__(
        self, folder: Path, sample: Sample, names: Sequence[str], told: Told = lambda _done, _total: None
    ) -> None:
        package = packages.read(folder)
        variant = package.variants.get("npu")
        if variant is None:
            raise UnsupportedModel(f"{folder} has no variant npu, whose values are wanted")
        self.sample, n_ctx = sample, variant.n_ctx or 0
        self._size = max(size for size in variant.s if size <= n_ctx)
        self._windows = _cut(sample, Tokenizer.from_gguf(package.vocabulary), self._size, n_ctx)
        one = replace(variant, s=(self._size,), models=(variant.models[variant.s.index(self._size)],))
        threads = device.default_threads()
        config = EngineConfig(n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, kernels=False)
        self._watch = Watch(names, self._hear)
        self._graphs = StaticGraphs(package, one, ort_provider.candidates("cpu")[0], config, Stop(), self._watch)
        self._seen: Seen = _nobody
        self.told = told
        """Hears of each reading."""

    @property
    def n_tokens(self) -> int:
        """Of the text that are read."""
        return sum(map(len, self._windows))

    @property
    def calibration(self) -> Calibration:
        """What a package that is made of it says."""
        return Calibration(self.sample.name, self.sample.sha256, self.n_tokens, len(self._windows))

    def read(self, seen: Seen) -> None:
        """The text once, in order: the same values come in the same order each time. Raises `NumericError`, naming the
        value, for what are no numbers."""
        self._seen, done = seen, 0
        try:
            for window in self._windows:
                for begin in range(0, len(window), self._size):
                    self._graphs.forward([Slice(0, window[begin : begin + self._size], begin)])
                    done += self._size
                    self.told(done, self.n_tokens)
        finally:
            self._seen = _nobody
            self._graphs.cut(0, 0)

    def _hear(self, found: Mapping[str, Floats]) -> None:
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise NumericError(f"{name} is no number on {self.sample.name}: the weights are damaged")
            self._seen(name, values)

    def close(self) -> None:
        self._graphs.close()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_about: object) -> None:
        self.close()


def _nobody(_name: str, _values: Floats) -> None:
    pass


def _cut(sample: Sample, tokenizer: Tokenizer, size: int, n_ctx: int) -> list[npt.NDArray[np.int32]]:
    """Windows of whole passes; what is left at the end of the text is left out."""
    bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
    ids = tokenizer.encode(sample.text)
    n_window = min(sample.n_window, n_ctx) // size * size
    if len(ids) < LEAST_TOKENS:
        raise UsageError(
            f"{sample.name} has {len(ids)} tokens, too few to find ranges with: give a text of {LEAST_TOKENS} or more"
        )
    found = [window.inputs for window in windows(ids, max(sample.n_tokens, LEAST_TOKENS), n_window, bos_id)]
    return [window[: len(window) // size * size] for window in found if len(window) >= size]
