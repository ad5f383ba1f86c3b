"""A package's encoder: whole texts become hidden states, and nothing is kept between them.

ONNX Runtime's own kernels compute it. A text is computed alone, so that its states have no company to depend on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeinfer.engines import ort_session
from edgeinfer.engines.base import EngineConfig, Logits, Slice
from edgeinfer.engines.ort_provider import Found
from edgeinfer.engines.ort_session import Graph, Sessions, Stop
from edgeinfer.errors import UnsupportedModel
from edgeinfer.onnx.package import Package

__all__ = ["WholeTexts"]

Floats = npt.NDArray[np.float32]


class WholeTexts:
    """The `Computer` of an encoder. A text is at most ``n_ctx`` tokens and is never cut, which ``block_size`` says."""

    together = False

    def __init__(self, package: Package, graph: Graph, found: Found, config: EngineConfig, stop: Stop) -> None:
        sizes = package.hyperparameters
        self.n_embd = sizes.n_embd
        self.n_cells = self.block_size = config.n_ctx or sizes.n_ctx_train
        self.layout = f"{package.source_sha256} {package.mode} encoder"
        self._hidden = graph.hidden
        self._sessions = Sessions(graph, found, config.n_threads or 1, config.n_threads_batch or 1, stop)
        self.placement = self._sessions.placement()

    def hidden(self, part: Slice) -> Floats:
        n = len(part.token_ids)
        ids = part.token_ids.astype(np.int64)[None]
        states = np.empty((1, n, self.n_embd), np.float32)
        session = self._sessions.of(n)
        given, got = {"input_ids": ort_session.value(ids)}, {self._hidden: ort_session.value(states)}
        self._sessions.run(session, ort_session.bind(session, given, got))
        whole: Floats = states[0]
        return whole

    def forward(self, slices: Sequence[Slice]) -> Logits:  # noqa: ARG002 - there is nothing to make them of
        raise UnsupportedModel("this model is an encoder: it makes embeddings and no logits")

    def cut(self, seq: int, n_tokens: int) -> None:
        pass

    def fork(self, source: int, target: int, n_tokens: int) -> None:
        pass

    def take(self, seq: int, n_tokens: int) -> npt.NDArray[np.uint8]:  # noqa: ARG002 - nothing is kept
        return np.empty(0, np.uint8)

    def put(self, seq: int, state: npt.NDArray[np.uint8], n_tokens: int) -> bool:  # noqa: ARG002
        return state.size == 0

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        self._sessions.set_threads(n_threads, n_threads_batch)

    def close(self) -> None:
        self._sessions.close()
