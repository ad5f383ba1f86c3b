"""An ONNX package that reads a text while its products are fed: its graph for any number of tokens, by ONNX Runtime's
own kernels on the CPU, and of it only what the wanted inputs are made by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer import device
from edgeinfer.calibrate.reading import Products, Sample, cut
from edgeinfer.engines import ort_provider, ort_session
from edgeinfer.engines.ort_buffers import INPUTS, cache_names
from edgeinfer.errors import EngineError, FormatError, UnsupportedModel
from edgeinfer.onnx import package as packages
from edgeinfer.onnx.graph import expose, read_graph
from edgeinfer.onnx.products import find_products
from edgeinfer.onnx.rewriting import Editor
from edgeinfer.text import Tokenizer

__all__ = ["PackageReader"]

Floats = npt.NDArray[np.float32]
_DYNAMIC = ("cpu", "cuda")
"""Variants whose graph takes any number of tokens."""


class PackageReader:
    """``folder``: a package with one of these variants. Each window of the text is one pass from an empty context. In
    memory: the weights, and the wanted inputs for the tokens of a window.

    Raises `UnsupportedModel` for one without such a variant and for encoders, `UsageError` for a text that is too
    short, `FormatError` for the vocabulary of another model, and what `packages.read` and `read_graph` raise."""

    def __init__(self, folder: Path, sample: Sample) -> None:
        package = packages.read(folder)
        if not package.hyperparameters.causal:
            raise UnsupportedModel(f"{folder} is an encoder; calibration reads a text from left to right")
        if not self.reads(package):
            raise UnsupportedModel(f"{folder} has no graph for any number of tokens, variant cpu or cuda")
        variant = next(package.variants[name] for name in _DYNAMIC if name in package.variants)
        self.sample, self._sizes = sample, package.hyperparameters
        self._graph = read_graph(package, variant).SerializeToString()
        self._data = package.path(variant.model).parent
        products = find_products(Editor(self._proto().graph))
        self._fed = {product.weight: (product.x, product.n_cols) for product in products}
        n_window = min(sample.n_window, self._sizes.n_ctx_train)
        self._windows = cut(sample, Tokenizer.from_gguf(package.vocabulary), n_window)
        if max(int(ids.max()) for ids in self._windows) >= self._sizes.n_vocab:  # operators read beyond a table's end
            raise FormatError(f"{package.vocabulary} has tokens that {folder} has no embeddings of; convert again")

    @staticmethod
    def reads(package: packages.Package) -> bool:
        """Whether it has such a variant."""
        return any(name in package.variants for name in _DYNAMIC)

    @property
    def n_tokens(self) -> int:
        """Of the text that are read."""
        return sum(map(len, self._windows))

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(1, n_cols) of each weight that is multiplied with. Experts, which an operator of their own chooses, are not
        among them."""
        return {name: (1, n_cols) for name, (_, n_cols) in self._fed.items()}

    def products(self, names: Sequence[str]) -> dict[str, Products]:
        """Of these weights, in one reading. In memory: n_cols^2 floats for each that is fed something of its own.
        Raises `EngineError` where ONNX Runtime cannot compute it."""
        fed = {name: self._fed[name] for name in names if name in self._fed}
        sums = {value: np.zeros((n_cols, n_cols), np.float32) for value, n_cols in fed.values()}
        if not sums:
            return {}
        session = self._opened([*sums])
        for ids in self._windows:
            for value, rows in self._pass(session, ids).items():
                rows = rows.reshape(-1, rows.shape[-1])
                sums[value] += rows.T @ rows  # one array with itself: NumPy computes half of it
        return {name: Products(sums[value], self.n_tokens) for name, (value, _) in fed.items()}

    def _proto(self) -> Any:
        import onnx

        return onnx.ModelProto.FromString(self._graph)

    def _opened(self, values: Sequence[str]) -> Any:
        """A session of the graph that ends in these values."""
        proto = self._proto()
        proto.graph.ClearField("output")
        lost = [value for value in values if not expose(proto, value, None)]
        if lost:
            raise FormatError(f"{self._data}: the graph has no value {lost[0][:80]!r}; convert again")
        Editor(proto.graph).prune()
        graph = ort_session.Graph(proto.SerializeToString(), self._data)
        return ort_session.open_session(graph, ort_provider.candidates("cpu")[0], device.default_threads())

    def _pass(self, session: Any, ids: npt.NDArray[np.int32]) -> Mapping[str, Floats]:
        """What the session's outputs are for these tokens, by name."""
        empty = np.zeros((1, self._sizes.n_kv_heads, 0, self._sizes.head_dim), np.float32)
        known: dict[str, npt.NDArray[Any]] = {past: empty for past, _ in cache_names(self._sizes.n_layers)}
        known |= dict(zip(INPUTS, (ids[None].astype(np.int64), np.ones((1, len(ids)), np.int64)), strict=True))
        known["logits_from"] = np.zeros(1, np.int64)
        try:
            names = [value.name for value in session.get_outputs()]
            feeds = {value.name: known[value.name] for value in session.get_inputs() if value.name in known}
            return dict(zip(names, session.run(names, feeds), strict=True))
        except ort_session.ERRORS as error:
            raise EngineError(f"ONNX Runtime failed on {self.sample.name}: {error}") from error
