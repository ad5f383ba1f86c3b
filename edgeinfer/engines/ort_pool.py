"""A package's graph with our operators in it: one pool of cells for all sequences, and one pass for all of them.

Weights are packed by `edgeinfer.onnx.swap` and mapped; a token's logits are the same bits in any company."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.engines import ort_session
from edgeinfer.engines.base import EngineConfig, Logits, Slice
from edgeinfer.engines.cells import Cells, CellTable
from edgeinfer.engines.ort_provider import Found
from edgeinfer.engines.ort_session import Graph, Sessions, Stop
from edgeinfer.onnx.package import Package
from edgeinfer.onnx.swap import DOMAIN, Swapped

__all__ = ["CellPool"]

Floats = npt.NDArray[np.float32]


class CellPool:
    """The `Computer` of a swapped graph, which it closes. ``hidden``: the graph's output of hidden states."""

    def __init__(
        self, package: Package, swapped: Swapped, hidden: str, found: Found, config: EngineConfig, stop: Stop
    ) -> None:
        sizes = package.hyperparameters
        self.n_embd, self._n_vocab = sizes.n_embd, sizes.n_vocab
        self.n_cells = config.n_cells or (config.n_ctx or sizes.n_ctx_train) * config.n_seq_max
        self.block_size = 1
        self.together = True
        self.layout = f"{package.source_sha256} {package.mode} pool {swapped.cell_bytes} {config.kv_type}"
        self._window = (sizes.sliding_window or 0) if swapped.windowed_layers else 0
        self._swapped, self._hidden = swapped, hidden
        self._folder = package.path(package.variants["cpu"].model).parent
        self._found, self._stop = found, stop
        self._cells = CellTable(self.n_cells, config.n_seq_max)
        self._pool = np.zeros((swapped.n_layers, 2, self.n_cells, swapped.cell_bytes), np.uint8)
        self._rows: Floats = np.empty((0, self._n_vocab), np.float32)
        self._sessions = self._opened(max(config.n_threads, config.n_threads_batch, 1))
        self.placement = self._sessions.placement()

    def _opened(self, n_threads: int) -> Sessions:
        graph = Graph(self._swapped.model, self._folder, self._hidden, self._swapped.initializers, ours=True)
        sessions = Sessions(graph, self._found, n_threads, n_threads, self._stop)
        self._session = sessions.of(1)
        self._binding = ort_session.bind(self._session, self._pooled(), {})
        return sessions

    def forward(self, slices: Sequence[Slice]) -> Logits:
        ends = np.cumsum([len(part.token_ids) for part in slices])
        wanted = [np.arange(end - part.n_logits, end) for part, end in zip(slices, ends.tolist(), strict=True)]
        rows = np.concatenate(wanted).astype(np.int64)
        if len(self._rows) < len(rows):
            self._rows = np.empty((len(rows), self._n_vocab), np.float32)
        logits: Logits = self._rows[: len(rows)]
        self._run(slices, rows, {"logits": logits[None]})
        return logits

    def hidden(self, part: Slice) -> Floats:
        states = np.empty((1, len(part.token_ids), self.n_embd), np.float32)
        nothing = np.empty((1, 0, self._n_vocab), np.float32)
        self._run([part], np.empty(0, np.int64), {"logits": nothing, self._hidden: states})
        found: Floats = states[0]
        return found

    def _run(self, slices: Sequence[Slice], rows: Cells, outputs: dict[str, npt.NDArray[Any]]) -> None:
        inputs = {
            "input_ids": np.concatenate([part.token_ids for part in slices]).astype(np.int64)[None],
            "positions": np.concatenate(
                [np.arange(part.n_past, part.n_past + len(part.token_ids), dtype=np.int64) for part in slices]
            ),
            "cells": self._cells.place(slices),
            "mask": self._cells.mask(slices),
            "rows": rows,
        }
        if self._window:
            inputs["mask_window"] = self._cells.mask(slices, self._window)
        # What has once been bound stays so: hidden states are bound where they are wanted alone.
        binding = ort_session.bind(self._session, self._pooled(), {}) if self._hidden in outputs else self._binding
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, ort_session.value(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, ort_session.value(array))
        self._sessions.run(self._session, binding)

    def _pooled(self) -> dict[str, Any]:
        return {"pool": ort_session.value(self._pool)}

    # ---- sequences

    def cut(self, seq: int, n_tokens: int) -> None:
        self._cells.cut(seq, n_tokens)

    def fork(self, source: int, target: int, n_tokens: int) -> None:
        self._cells.fork(source, target, n_tokens)

    def take(self, seq: int, n_tokens: int) -> npt.NDArray[np.uint8]:
        return np.take(self._pool, self._cells.of(seq)[:n_tokens], axis=2).reshape(-1)

    def put(self, seq: int, state: npt.NDArray[np.uint8], n_tokens: int) -> bool:
        n_layers, n_parts, _, cell_bytes = self._pool.shape
        if state.size != n_layers * n_parts * n_tokens * cell_bytes:
            return False
        cells = self._cells.place([Slice(seq, np.zeros(n_tokens, np.int32), 0, 0)])
        self._pool[:, :, cells] = state.reshape(n_layers, n_parts, n_tokens, cell_bytes)
        return True

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        """The operators hold both counts, and a session the greater one: it is made anew, which packs nothing."""
        counts = {"n_threads": n_threads, "n_threads_batch": n_threads_batch}
        for node in self._swapped.proto.graph.node:
            for attribute in node.attribute:
                if node.domain == DOMAIN and attribute.name in counts:
                    attribute.i = counts[attribute.name]
        self._sessions.close()
        self._sessions = self._opened(max(n_threads, n_threads_batch, 1))

    def close(self) -> None:
        self._sessions.close()
        del self._session, self._binding
        self._swapped.close()
