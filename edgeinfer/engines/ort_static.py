"""A package's graphs of fixed shapes, which accelerators want: each computes so many tokens of one sequence, and what
changes in size or place is the host's: embeddings, rotations, masks, and the memory of keys and values.

A slice is computed in passes of the sizes that there are; what a pass has more is padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from edgeinfer.onnx.package import STATIC_MODES, Hyperparameters, Package, Variant

__all__ = ["StaticGraphs", "Watch", "blocks", "passes"]

_UNSEEN = np.float32(-30000)  # of a mask: fits the half precision that accelerators compute in
_TABLE = "token_embd.gguf"
_HIDDEN = "output_norm"
_TILE = 64
_MOST_DRAFTED = 32  # tokens of a slice that may be a draft: more are a prompt

Floats = npt.NDArray[np.float32]


def passes(n_tokens: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """How ``n_tokens`` are computed with graphs of these sizes, ascending: (size of the graph, tokens of it that
    count). The last pass takes the smallest that holds what is left."""
    while n_tokens:
        fitting = [size for size in sizes if size >= n_tokens]
        size = min(fitting) if fitting else sizes[-1]
        yield size, min(size, n_tokens)
        n_tokens -= min(size, n_tokens)


def blocks(n_past: int, n_tokens: int, size: int) -> Iterator[tuple[int, int]]:
    """How they are computed by one graph so that a token's place in its pass follows from its position: (first
    position of a pass, its end). The first pass may begin before ``n_past``."""
    for begin in range(n_past // size * size, n_past + n_tokens, size):
        yield begin, min(begin + size, n_past + n_tokens)


@dataclass(slots=True)
class _Rotation:
    """cos and sin of every position, float32 ``(n_ctx + the largest graph, head_dim / 2)``, under the names that the
    graphs have for them."""

    name: str
    tables: tuple[Floats, Floats]

    @classmethod
    def of(cls, name: str, frequencies: npt.NDArray[np.float64], magnitude: float, n_positions: int) -> _Rotation:
        angles = np.arange(n_positions)[:, None] * frequencies
        cos, sin = ((magnitude * turned).astype(np.float32) for turned in (np.cos(angles), np.sin(angles)))
        return cls(name, (cos, sin))

    def inputs(self, begin: int, size: int) -> dict[str, Floats]:
        names = (f"{self.name}.cos", f"{self.name}.sin")
        return {name: table[None, None, begin : begin + size] for name, table in zip(names, self.tables, strict=True)}


@dataclass(slots=True)
class _Cache:
    """What the host keeps of a sequence: its tokens, and the keys and values of each layer."""

    ids: npt.NDArray[np.int32]
    arrays: list[Floats]


@dataclass(slots=True)
class Watch:
    """Float values inside the graphs that ``seen`` hears of after each pass, by name; they are valid until it returns,
    and rows of padding are among them."""

    names: Sequence[str]
    seen: Callable[[Mapping[str, Floats]], None]


class StaticGraphs:
    """The `Computer` of a variant of fixed shapes.

    ``config.drafted``: what may be a draft is computed in blocks of a graph of several tokens, in which each token has
    the place that its position says, with those before it in its block once more where need be. So a token is the same
    bits alone and among drafted ones; it takes as long as the graph does. Prompts are cut at multiples of the largest
    graph where sequences are to be computed as if alone. ``watch``: who looks at values
    inside."""

    def __init__(
        self,
        package: Package,
        variant: Variant,
        found: Found,
        config: EngineConfig,
        stop: Stop,
        watch: Watch | None = None,
    ) -> None:
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
        self._block = self._sizes[1] if config.drafted and len(self._sizes) > 1 else 0
        self._n_ctx, self._windows = n_ctx, _windows(hyper)
        self._shape = (1, hyper.n_kv_heads, n_ctx, hyper.head_dim)
        self._names = cache_names(hyper.n_layers)
        self.layout = f"{package.source_sha256} {package.mode} static {hyper.n_layers} {self._shape[1::2]} f32"
        self._rotations = _rotations(hyper, n_ctx, n_ctx + self._sizes[-1])
        self._table = _table(package, variant)
        self._caches: dict[int, _Cache] = {}
        self._bindings: dict[tuple[int, int], Any] = {}
        self._outputs: dict[int, dict[str, Floats]] = {}
        self._rows: Floats = np.empty((0, self._n_vocab), np.float32)
        self._watch = watch
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
            for name in self._watch.names if self._watch else ():
                if all(name != output.name for output in proto.graph.output) and not expose(proto, name, None):
                    raise UnsupportedModel(f"{where} has no tensor {name!r}; convert again")
            exact = package.mode in STATIC_MODES  # their inputs are integers already
            graphs[size] = Graph(proto.SerializeToString(), where.parent, _HIDDEN, exact_inputs=exact)
        threads = config.n_threads or 1, config.n_threads_batch or 1
        return {
            size: Sessions(graph, found, *((threads[0],) * 2 if size == 1 else (threads[1],) * 2), stop)
            for size, graph in graphs.items()
            if size >= self._block or size == self._sizes[-1]
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
        """(first of the slice's tokens, end, outputs of these, valid until the next) of each pass. Keys and values are
        kept as they come."""
        cache, n_past, n_tokens = self._cache(part.seq), part.n_past, len(part.token_ids)
        cache.ids[n_past : n_past + n_tokens] = part.token_ids
        for size, begin, stop in self._shares(n_past, n_tokens):
            found = self._run(size, cache.ids[begin:stop], begin, part.seq)
            for (_, present), kept in zip(self._names, cache.arrays, strict=True):
                kept[:, :, begin:stop] = found[present][:, :, : stop - begin]
            if self._watch is not None:
                self._watch.seen({name: found[name] for name in self._watch.names})
            n_again = max(0, n_past - begin)
            counted = {name: found[name][:, n_again:] for name in ("logits", _HIDDEN)}
            yield begin + n_again - n_past, stop - n_past, counted

    def _shares(self, n_past: int, n_tokens: int) -> Iterator[tuple[int, int, int]]:
        """(size of the graph, first position, end) of each pass."""
        if self._block and n_tokens <= _MOST_DRAFTED:
            yield from ((self._block, begin, stop) for begin, stop in blocks(n_past, n_tokens, self._block))
            return
        for size, n in passes(n_tokens, tuple(self._graphs)):
            yield size, n_past, n_past + n
            n_past += n

    def _run(self, size: int, ids: npt.NDArray[np.int32], n_past: int, seq: int) -> dict[str, Floats]:
        embeddings = np.zeros((1, size, self.n_embd), np.float32)
        self._table.read(np.ascontiguousarray(ids), embeddings[0, : len(ids)])
        inputs = {"embeddings": embeddings}
        inputs |= {name: self._mask(size, n_past, window) for name, window in self._windows.items()}
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
            kept = zip(self._names, self._cache(seq).arrays, strict=True)
            past = {name: ort_session.value(array) for (name, _), array in kept}
            outputs = {name: ort_session.value(array) for name, array in self._outputs[size].items()}
            self._bindings[key] = ort_session.bind(session, past, outputs)
        return self._bindings[key]

    def _mask(self, size: int, n_past: int, window: int) -> Floats:
        """Whom each of the tokens sees: the past, and those of its pass up to itself."""
        columns = np.concatenate([np.arange(self._n_ctx), n_past + np.arange(size)])
        there = np.concatenate([np.arange(self._n_ctx) < n_past, np.ones(size, np.bool_)])
        distance = (n_past + np.arange(size))[:, None] - columns
        seen = there & (distance >= 0) & ((distance < window) if window else True)
        mask: Floats = np.where(seen, np.float32(0), _UNSEEN)[None, None]
        return mask

    # ---- sequences

    def _cache(self, seq: int) -> _Cache:
        if seq not in self._caches:
            arrays = [ort_session.floats(self._shape) for _ in self._names]
            self._caches[seq] = _Cache(np.zeros(self._n_ctx, np.int32), arrays)
        return self._caches[seq]

    def cut(self, seq: int, n_tokens: int) -> None:
        if not n_tokens and self._caches.pop(seq, None) is not None:
            self._bindings = {key: binding for key, binding in self._bindings.items() if key[1] != seq}

    def fork(self, source: int, target: int, n_tokens: int) -> None:
        own, other = self._cache(target), self._cache(source)
        own.ids[:n_tokens] = other.ids[:n_tokens]
        for array, original in zip(own.arrays, other.arrays, strict=True):
            array[:, :, :n_tokens] = original[:, :, :n_tokens]

    def take(self, seq: int, n_tokens: int) -> npt.NDArray[np.uint8]:
        cache = self._cache(seq)
        parts = [cache.ids[:n_tokens], *(np.ascontiguousarray(array[:, :, :n_tokens]) for array in cache.arrays)]
        return np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])

    def put(self, seq: int, state: npt.NDArray[np.uint8], n_tokens: int) -> bool:
        shape = (len(self._names), *self._shape[:2], n_tokens, self._shape[3])
        n_ids = 4 * n_tokens
        if n_tokens > self._n_ctx or state.size != n_ids + 4 * int(np.prod(shape)):
            return False
        ids = np.frombuffer(state[:n_ids].tobytes(), np.int32)
        if ids.min() < 0 or ids.max() >= self._n_vocab:
            return False
        cache = self._cache(seq)
        cache.ids[:n_tokens] = ids
        for array, saved in zip(
            cache.arrays, np.frombuffer(state[n_ids:].tobytes(), np.float32).reshape(shape), strict=True
        ):
            array[:, :, :n_tokens] = saved
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


def _windows(hyper: Hyperparameters) -> dict[str, int]:
    """The masks that the layers need, by the graphs' names, and how many positions each lets a token see (0: all)."""
    windowed = {hyper.windowed(layer) for layer in range(hyper.n_layers)}
    sizes = {False: ("mask", 0), True: ("mask_window", hyper.sliding_window or 0)}
    return dict(sizes[each] for each in sorted(windowed))


def _rotations(hyper: Hyperparameters, n_ctx: int, n_positions: int) -> list[_Rotation]:
    """Those that the layers need: layers with a window may have frequencies of their own, and a model may come with
    its own where ``rope_theta`` does not say all."""
    local = hyper.rope_theta_local
    given = hyper.rope_frequencies_long if hyper.long(n_ctx) else hyper.rope_frequencies
    own = {local is not None and hyper.windowed(layer) for layer in range(hyper.n_layers)}

    def plain(theta: float) -> npt.NDArray[np.float64]:
        frequencies: npt.NDArray[np.float64] = theta ** (-np.arange(0, hyper.head_dim, 2) / hyper.head_dim)
        return frequencies

    shared = plain(hyper.rope_theta) if given is None else np.array(given)
    ropes = {False: ("rope", shared, hyper.rope_magnitude), True: ("rope_local", plain(local or 1.0), 1.0)}
    return [_Rotation.of(*ropes[each], n_positions) for each in sorted(own)]


def _table(package: Package, variant: Variant) -> TokenTable:
    """The embeddings of tokens, which the host looks up."""
    name = next((name for name in variant.files if name.rpartition("/")[2] == _TABLE), None)
    if name is None:
        raise FormatError(f"{package.folder}: variant npu has no {_TABLE} among its files; convert again")
    hyper = package.hyperparameters
    table = TokenTable(gguf.read_structure(package.path(name)), scale=hyper.embedding_scale)
    if (table.n_vocab, table.n_embd) != (hyper.n_vocab, hyper.n_embd):
        raise FormatError(
            f"{package.path(name)} has {table.n_vocab} rows of {table.n_embd}, but edgeinfer.json says "
            f"{hyper.n_vocab} of {hyper.n_embd}; convert again"
        )
    return table


def _signature(
    hyper: Hyperparameters, size: int, n_ctx: int, rotations: list[_Rotation]
) -> tuple[Signature, Signature]:
    angles = [f"{rotation.name}.{part}" for rotation in rotations for part in ("cos", "sin")]
    names = cache_names(hyper.n_layers)
    past, new = ((1, hyper.n_kv_heads, n, hyper.head_dim) for n in (n_ctx, size))
    row = (1, 1, size, n_ctx + size)
    inputs: list[tuple[str, tuple[int | None, ...]]] = [("embeddings", (1, size, hyper.n_embd))]
    inputs += [(name, row) for name in _windows(hyper)]
    n_pairs = len(hyper.rope_frequencies or ()) or hyper.head_dim // 2
    inputs += [(name, (1, 1, size, n_pairs)) for name in angles]
    inputs += [(name, past) for name, _ in names]
    outputs: list[tuple[str, tuple[int | None, ...]]] = [("logits", (1, size, hyper.n_vocab))]
    outputs += [(name, new) for _, name in names]
    return {name: ("FLOAT", shape) for name, shape in inputs}, {name: ("FLOAT", shape) for name, shape in outputs}


def _joined(found: list[Placement | None]) -> Placement | None:
    """Of all graphs together."""
    known = [placement for placement in found if placement is not None]
    return ort_placement.joined(known) if known and len(known) == len(found) else None
