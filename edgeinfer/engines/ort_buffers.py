"""A package's graph as it stands: ONNX Runtime's own kernels, on any provider, one contiguous cache a sequence.

A layer's keys and values are one buffer that the graph has as past and as present: nothing is copied, and going back is
to say that the sequence is shorter. A fork copies. Passes are of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgeinfer.engines import ort_session
from edgeinfer.engines.base import EngineConfig, Logits, Slice
from edgeinfer.engines.ort_provider import Found
from edgeinfer.engines.ort_session import Graph, Sessions, Stop
from edgeinfer.onnx.package import Package

__all__ = ["INPUTS", "SequenceBuffers", "cache_names"]

INPUTS = ("input_ids", "attention_mask")
_FROM = "logits_from"
_LEAST = 2
_TILE = 64

Floats = npt.NDArray[np.float32]


def cache_names(n_layers: int) -> list[tuple[str, str]]:
    """(past, present) of each layer's keys and values."""
    pairs = [f"{layer}.{part}" for layer in range(n_layers) for part in ("key", "value")]
    return [(f"past_key_values.{pair}", f"present.{pair}") for pair in pairs]


@dataclass(slots=True)
class _Cache:
    """The buffers of a sequence. ``arrays`` are theirs where they lie in the CPU's memory."""

    values: list[Any]
    arrays: list[npt.NDArray[Any]]


class SequenceBuffers:
    """The `Computer` of one dynamic graph.

    ``config.isolate``: a token's logits do not depend on how many were computed with it. ONNX Runtime's CPU kernels
    round one row by itself otherwise than two or more, and any number from two on alike (tested, for it promises
    nothing), so a single row is computed as two there. Providers of other hardware choose kernels by the number of
    rows; for them prompts are cut at fixed places. ``half``: the graph's cache is float16, not float32.
    """

    def __init__(
        self, package: Package, graph: Graph, found: Found, config: EngineConfig, stop: Stop, *, half: bool = False
    ) -> None:
        sizes = package.hyperparameters
        self.n_embd, self._n_vocab = sizes.n_embd, sizes.n_vocab
        n_ctx = config.n_ctx or sizes.n_ctx_train
        self.n_cells = config.n_cells or n_ctx * config.n_seq_max
        self._least = _LEAST if config.isolate and found.is_cpu else 1
        self.block_size = _TILE if config.isolate and not found.is_cpu else 1
        self.together = False
        self._hidden = graph.hidden
        self._capacity = min(n_ctx + _LEAST, sizes.n_ctx_train)  # there are positions for no more
        self._shape = (1, sizes.n_kv_heads, self._capacity, sizes.head_dim)
        self._names = cache_names(sizes.n_layers)
        self._dtype = np.dtype(np.float16 if half else np.float32)
        self.layout = (
            f"{package.source_sha256} {package.mode} buffers {sizes.n_layers} {self._shape[1::2]} {self._dtype}"
        )
        self._on_cpu = found.provider.word != "cuda"
        self._caches: dict[int, _Cache] = {}
        self._bindings: dict[tuple[int, int], Any] = {}
        self._ones = np.ones((1, self._capacity), np.int64)
        self._rows: Floats = np.empty((0, self._n_vocab), np.float32)
        self._sessions = Sessions(graph, found, config.n_threads or 1, config.n_threads_batch or 1, stop)
        self.placement = self._sessions.placement()

    def forward(self, slices: Sequence[Slice]) -> Logits:
        (part,) = slices
        n, n_rows, n_padded = len(part.token_ids), part.n_logits, self._padded(part)
        n_first = max(0, n - max(n_rows, self._least))  # the head rounds one row otherwise, too
        logits = self._room(n_padded - n_first)
        session = self._sessions.of(n)
        binding = self._binding(session, part.seq)
        binding.bind_ortvalue_output("logits", ort_session.value(logits))
        self._run(session, binding, part, n_padded, n_first)
        rows: Logits = logits[0, n - n_rows - n_first : n - n_first]
        return rows

    def hidden(self, part: Slice) -> Floats:
        n_padded = self._padded(part)
        states = np.empty((1, n_padded, self.n_embd), np.float32)
        session = self._sessions.of(len(part.token_ids))
        outputs = {"logits": ort_session.value(self._room(1)), self._hidden: ort_session.value(states)}
        binding = ort_session.bind(session, *self._cached(part.seq, outputs))
        self._run(session, binding, part, n_padded, n_padded - 1)
        return states[0, : len(part.token_ids)]

    def _padded(self, part: Slice) -> int:
        """Rows of the pass. The last position that the model has is computed by itself, where it comes so."""
        return max(len(part.token_ids), min(self._least, self._capacity - part.n_past))

    def _room(self, n_rows: int) -> Floats:
        if len(self._rows) < n_rows:
            self._rows = np.empty((n_rows, self._n_vocab), np.float32)
        return self._rows[None, :n_rows]

    def _run(self, session: Any, binding: Any, part: Slice, n_padded: int, n_first: int) -> None:
        """The tokens, and after them as many of no meaning as it takes to make ``n_padded``: they are beyond the
        sequence's length, and what follows overwrites them."""
        ids = np.zeros((1, n_padded), np.int64)
        ids[0, : len(part.token_ids)] = part.token_ids
        inputs = dict(zip(INPUTS, (ids, self._ones[:, : part.n_past + n_padded]), strict=True))
        for name, array in (*inputs.items(), (_FROM, np.array([n_first], np.int64))):
            binding.bind_ortvalue_input(name, ort_session.value(array))
        self._sessions.run(session, binding)

    def _binding(self, session: Any, seq: int) -> Any:
        key = id(session), seq
        if key not in self._bindings:
            self._bindings[key] = ort_session.bind(session, *self._cached(seq, {}))
        return self._bindings[key]

    def _cached(self, seq: int, outputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and outputs with the sequence's cache as past and present."""
        cache = self._cache(seq)
        past = {name: tensor for (name, _), tensor in zip(self._names, cache.values, strict=True)}
        present = {name: tensor for (_, name), tensor in zip(self._names, cache.values, strict=True)}
        return past, {**outputs, **present}

    def _cache(self, seq: int) -> _Cache:
        if seq not in self._caches:
            if self._on_cpu:
                arrays = [np.zeros(self._shape, self._dtype) for _ in self._names]  # resident where written
                self._caches[seq] = _Cache([ort_session.value(array) for array in arrays], arrays)
            else:
                make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
                self._caches[seq] = _Cache([make(self._shape, self._dtype.type, "cuda", 0) for _ in self._names], [])
        return self._caches[seq]

    # ---- sequences

    def cut(self, seq: int, n_tokens: int) -> None:
        if not n_tokens and seq in self._caches:
            del self._caches[seq]
            self._bindings = {key: binding for key, binding in self._bindings.items() if key[1] != seq}

    def fork(self, source: int, target: int, n_tokens: int) -> None:
        self._write(target, [array[:, :, :n_tokens] for array in self._read(source)], n_tokens)

    def _read(self, seq: int) -> list[npt.NDArray[Any]]:
        cache = self._cache(seq)
        return cache.arrays or [tensor.numpy() for tensor in cache.values]

    def _write(self, seq: int, states: Sequence[npt.NDArray[Any]], n_tokens: int) -> None:
        cache = self._cache(seq)
        for i, state in enumerate(states):
            if cache.arrays:
                cache.arrays[i][:, :, :n_tokens] = state
            else:
                whole = np.zeros(self._shape, self._dtype)
                whole[:, :, :n_tokens] = state
                cache.values[i].update_inplace(whole)

    def take(self, seq: int, n_tokens: int) -> npt.NDArray[np.uint8]:
        states = [np.ascontiguousarray(array[:, :, :n_tokens]) for array in self._read(seq)]
        return np.concatenate([state.reshape(-1).view(np.uint8) for state in states])

    def put(self, seq: int, state: npt.NDArray[np.uint8], n_tokens: int) -> bool:
        shape = (len(self._names), *self._shape[:2], n_tokens, self._shape[3])
        if state.size != self._dtype.itemsize * int(np.prod(shape)):
            return False
        self._write(seq, list(np.frombuffer(state.tobytes(), self._dtype).reshape(shape)), n_tokens)
        return True

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        if self._sessions.set_threads(n_threads, n_threads_batch):
            self._bindings.clear()

    def close(self) -> None:
        self._bindings.clear()
        self._caches.clear()
        self._sessions.close()
