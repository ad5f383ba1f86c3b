"""A package's graphs of fixed shapes, which accelerators want: each computes so many tokens of one sequence, and what
changes in size or place is the host's: embeddings, rotations, masks, and the memory of keys and values.

A slice is computed in passes of the sizes that there are; what a pass has more is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer import gguf
from edgeinfer.engines import ort_placement, ort_session
from edgeinfer.engines.base import EngineConfig, Logits, Slice
from edgeinfer.engines.ort_buffers import cache_names
from edgeinfer.engines.ort_placement import Placement
from edgeinfer.engines.ort_provider import Found
from edgeinfer.engines.ort_session import Graph, Sessions, Stop
from edgeinfer.engines.token_table import TokenTable
from edgeinfer.errors import FormatError, UnsupportedModel
from edgeinfer.onnx.graph import Signature, check_signature, expose, read_graph
from edgeinfer.onnx.package import Hyperparameters, Package, Variant

__all__ = ["StaticGraphs", "passes"]

_UNSEEN = np.float32(-30000)  # of a mask: fits the half precision that accelerators compute in
_TABLE = "token_embd.gguf"
_HIDDEN = "output_norm"
_TILE = 64

Floats = npt.NDArray[np.float32]


def passes(n_tokens: int, sizes: Sequence[int], least: int = 1) -> Iterator[tuple[int, int]]:
    """How ``n_tokens`` are computed with graphs of these sizes, ascending: (size of the graph, tokens of it that
    count). No graph smaller than ``least`` is used. The last pass takes the smallest that holds what is left."""
    usable = [size for size in sizes if size >= least] or [sizes[-1]]
    while n_tokens:
        fitting = [size for size in usable if size >= n_tokens]
        size = min(fitting) if fitting else usable[-1]
        yield size, min(size, n_tokens)
        n_tokens -= min(size, n_tokens)


@dataclass(slots=True)
class _Rotation:
    """cos and sin of every position, float32 ``(n_ctx + the largest graph, head_dim / 2)``, under the names that the
    graphs have for them."""

    name: str
    tables: tuple[Floats, Floats]

    @classmethod
    def of(cls, name: str, theta: float, head_dim: int, n_positions: int) -> _Rotation:
        frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        angles = np.arange(n_positions)[:, None] * frequencies
        return cls(name, (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)))

    def inputs(self, begin: int, size: int) -> dict[str, Floats]:
        names = (f"{self.name}.cos", f"{self.name}.sin")
        return {name: table[None, None, begin : begin + size] for name, table in zip(names, self.tables, strict=True)}


class StaticGraphs:
    """The `Computer` of a variant of fixed shapes.

    ``config.drafted``: single tokens are computed by the graph of several, so that they are the same bits in a draft;
    that takes as long as the graph does. Prompts are cut at multiples of the largest graph where sequences are to be
    computed as if alone."""

    def __init__(self, package: Package, variant: Variant, found: Found, config: EngineConfig, stop: Stop) -> None:
        hyper, n_ctx = package.hyperparameters, variant.n_ctx or 0
        if (config.n_ctx or hyper.n_ctx_train) > n_ctx:
            raise UnsupportedModel(
                f"{package.folder}: variant npu is made for {n_ctx} tokens, and a context of {config.n_ctx} is wanted; "
                f"take -c {n_ctx}, or convert again"
            )
        self._sizes = tuple(sorted(variant.s))
        self.n_embd, self._n_vocab = hyper.n_embd, hyper.n_vocab
        self.n_cells = config.n_cells or config.n_ctx * config.n_seq_max
        self.block_size = _TILE if config.isolate else 1
        self.together = False
        self._least = self._sizes[1] if config.drafted and len(self._sizes) > 1 else 1
        self._n_ctx, self._window = n_ctx, hyper.sliding_window or 0
        self._shape = (1, hyper.n_kv_heads, n_ctx, hyper.head_dim)
        self._names = cache_names(hyper.n_layers)
        self.layout = f"{package.source_sha256} {package.mode} static {hyper.n_layers} {self._shape[1::2]} f32"
        self._rotations = _rotations(hyper, n_ctx + self._sizes[-1])
        self._table = _table(package, variant)
        self._caches: dict[int, list[Floats]] = {}
        self._bindings: dict[tuple[int, int], Any] = {}
        self._outputs: dict[int, dict[str, Floats]] = {}
        self._rows: Floats = np.empty((0, self._n_vocab), np.float32)
        self._graphs = self._opened(package, variant, found, config, stop)
        self.placement = _joined([sessions.placement() for sessions in self._graphs.values()])

    def _opened(
        self, package: Package, variant: Variant, found: Found, config: EngineConfig, stop: Stop
    ) -> dict[int, Sessions]:
        """All graphs are checked before the first is opened."""
        graphs = {}
        for size, model in zip(variant.s, variant.models, strict=True):
            proto = read_graph(package, variant, model)
            where = package.path(model)
            check_signature(str(where), proto, *_signature(package.hyperparameters, size, self._n_ctx, self._rotations))
            if not expose(proto, _HIDDEN, [1, size, self.n_embd]):
                raise UnsupportedModel(f"{where} has no tensor {_HIDDEN!r}; convert again")
            graphs[size] = Graph(proto.SerializeToString(), where.parent, _HIDDEN)
        threads = config.n_threads or 1, config.n_threads_batch or 1
        return {
            size: Sessions(graph, found, *((threads[0],) * 2 if size == 1 else (threads[1],) * 2), stop)
            for size, graph in graphs.items()
            if size >= self._least or size == self._sizes[-1]
        }

    # ---- computing

    def forward(self, slices: Sequence[Slice]) -> Logits:
        (part,) = slices
        n_rows, end = part.n_logits, len(part.token_ids)
        if len(self._rows) < n_rows:
            self._rows = np.empty((n_rows, self._n_vocab), np.float32)
        for begin, stop, found in self._passes(part):
            first = max(begin, end - n_rows)  # of the slice's tokens, the first whose row is wanted
            if first < stop:
                wanted = found["logits"][0, first - begin : stop - begin]
                self._rows[first - (end - n_rows) : stop - (end - n_rows)] = wanted
        rows: Logits = self._rows[:n_rows]
        return rows

    def hidden(self, part: Slice) -> Floats:
        states = np.empty((len(part.token_ids), self.n_embd), np.float32)
        for begin, stop, found in self._passes(part):
            states[begin:stop] = found[_HIDDEN][0, : stop - begin]
        return states

    def _passes(self, part: Slice) -> Iterator[tuple[int, int, dict[str, Floats]]]:
        """(first token, end, outputs, valid until the next) of each pass over a slice. Keys and values are kept as they
        come."""
        cache, begin = self._cache(part.seq), 0
        for size, n in passes(len(part.token_ids), self._sizes, self._least):
            n_past = part.n_past + begin
            found = self._run(size, part.token_ids[begin : begin + n], n_past, part.seq)
            for (_, present), kept in zip(self._names, cache, strict=True):
                kept[:, :, n_past : n_past + n] = found[present][:, :, :n]
            yield begin, begin + n, found
            begin += n

    def _run(self, size: int, ids: npt.NDArray[np.int32], n_past: int, seq: int) -> dict[str, Floats]:
        embeddings = np.zeros((1, size, self.n_embd), np.float32)
        self._table.read(np.ascontiguousarray(ids), embeddings[0, : len(ids)])
        inputs = {"embeddings": embeddings, "mask": self._mask(size, n_past, 0)}
        if self._window:
            inputs["mask_window"] = self._mask(size, n_past, self._window)
        for rotation in self._rotations:
            inputs |= rotation.inputs(n_past, size)
        session = self._graphs[size].of(size)
        binding = self._binding(session, size, seq)
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, ort_session.value(np.ascontiguousarray(array)))
        self._graphs[size].run(session, binding)
        return self._outputs[size]

    def _binding(self, session: Any, size: int, seq: int) -> Any:
        """With the sequence's keys and values as inputs, and the graph's outputs, which every pass overwrites."""
        key = id(session), seq
        if key not in self._bindings:
            if size not in self._outputs:
                shapes = {output.name: tuple(output.shape) for output in session.get_outputs()}
                self._outputs[size] = {name: ort_session.floats(shape) for name, shape in shapes.items()}
            cache = zip(self._names, self._cache(seq), strict=True)
            past = {name: ort_session.value(kept) for (name, _), kept in cache}
            outputs = {name: ort_session.value(array) for name, array in self._outputs[size].items()}
            self._bindings[key] = ort_session.bind(session, past, outputs)
        return self._bindings[key]

    def _mask(self, size: int, n_past: int, window: int) -> Floats:
        """Whom each of the tokens sees: the past, and those of its pass up to itself."""
        columns = np.concatenate([np.arange(self._n_ctx), n_past + np.arange(size)])
        there = np.concatenate([np.arange(self._n_ctx) < n_past, np.ones(size, np.bool_)])
        distance = (n_past + np.arange(size))[:, None] - columns
        seen = there & (distance >= 0) & ((distance < window) if window else True)
        return np.where(seen, np.float32(0), _UNSEEN)[None, None]

    # ---- sequences

    def _cache(self, seq: int) -> list[Floats]:
        if seq not in self._caches:
            self._caches[seq] = [ort_session.floats(self._shape) for _ in self._names]
        return self._caches[seq]

    def cut(self, seq: int, n_tokens: int) -> None:
        if not n_tokens and self._caches.pop(seq, None) is not None:
            self._bindings = {key: binding for key, binding in self._bindings.items() if key[1] != seq}

    def fork(self, source: int, target: int, n_tokens: int) -> None:
        for own, other in zip(self._cache(target), self._cache(source), strict=True):
            own[:, :, :n_tokens] = other[:, :, :n_tokens]

    def take(self, seq: int, n_tokens: int) -> npt.NDArray[np.uint8]:
        states = [np.ascontiguousarray(kept[:, :, :n_tokens]) for kept in self._cache(seq)]
        return np.concatenate([state.reshape(-1).view(np.uint8) for state in states])

    def put(self, seq: int, state: npt.NDArray[np.uint8], n_tokens: int) -> bool:
        shape = (len(self._names), *self._shape[:2], n_tokens, self._shape[3])
        if n_tokens > self._n_ctx or state.size != 4 * int(np.prod(shape)):
            return False
        for kept, saved in zip(
            self._cache(seq), np.frombuffer(state.tobytes(), np.float32).reshape(shape), strict=True
        ):
            kept[:, :, :n_tokens] = saved
        return True

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        self._bindings.clear()
        for size, sessions in self._graphs.items():
            each = n_threads if size == 1 else n_threads_batch
            sessions.set_threads(each, each)

    def close(self) -> None:
        self._bindings.clear()
        self._caches.clear()
        for sessions in self._graphs.values():
            sessions.close()


def _rotations(hyper: Hyperparameters, n_positions: int) -> list[_Rotation]:
    found = [_Rotation.of("rope", hyper.rope_theta, hyper.head_dim, n_positions)]
    if hyper.rope_theta_local is not None:
        found.append(_Rotation.of("rope_local", hyper.rope_theta_local, hyper.head_dim, n_positions))
    return found


def _table(package: Package, variant: Variant) -> TokenTable:
    """The embeddings of tokens, which the host looks up."""
    name = next((name for name in variant.files if name.rpartition("/")[2] == _TABLE), None)
    if name is None:
        raise FormatError(f"{package.folder}: variant npu has no {_TABLE} among its files; convert again")
    table = TokenTable(gguf.read_structure(package.path(name)))
    hyper = package.hyperparameters
    if (table.n_vocab, table.n_embd) != (hyper.n_vocab, hyper.n_embd):
        raise FormatError(
            f"{package.path(name)} has {table.n_vocab} rows of {table.n_embd}, but edgeinfer.json says "
            f"{hyper.n_vocab} of {hyper.n_embd}; convert again"
        )
    return table


def _signature(
    hyper: Hyperparameters, size: int, n_ctx: int, rotations: list[_Rotation]
) -> tuple[Signature, Signature]:
    masks = ["mask", "mask_window"] if hyper.sliding_window else ["mask"]
    angles = [f"{rotation.name}.{part}" for rotation in rotations for part in ("cos", "sin")]
    names = cache_names(hyper.n_layers)
    past, new = ((1, hyper.n_kv_heads, n, hyper.head_dim) for n in (n_ctx, size))
    row = (1, 1, size, n_ctx + size)
    inputs: list[tuple[str, tuple[int | None, ...]]] = [("embeddings", (1, size, hyper.n_embd))]
    inputs += [(name, row) for name in masks]
    inputs += [(name, (1, 1, size, hyper.head_dim // 2)) for name in angles]
    inputs += [(name, past) for name, _ in names]
    outputs: list[tuple[str, tuple[int | None, ...]]] = [("logits", (1, size, hyper.n_vocab))]
    outputs += [(name, new) for _, name in names]
    return {name: ("FLOAT", shape) for name, shape in inputs}, {name: ("FLOAT", shape) for name, shape in outputs}


def _joined(found: list[Placement | None]) -> Placement | None:
    """Of all graphs together."""
    known = [placement for placement in found if placement is not None]
    return ort_placement.joined(known) if known and len(known) == len(found) else None
