"""GGUF models through llama.cpp's C API: one model, one context, many sequences in one unified KV cache.

Owns the native handles. Knows nothing of text, requests or sampling. The bindings' own `Llama` class is not used: it
holds one sequence, copies logits, and cannot be cancelled."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgeinfer import kernels, packed
from edgeinfer.engines import devices, llama_log
from edgeinfer.engines.base import EngineConfig, ForwardCancelled, Logits, Slice
from edgeinfer.engines.llama_batch import LlamaBatch
from edgeinfer.engines.long_rope import short_factors
from edgeinfer.engines.pieces import pieces as cut
from edgeinfer.engines.token_table import TokenTable
from edgeinfer.errors import BackendUnavailable, EngineError, FormatError, InsufficientMemory

__all__ = ["LlamaCppEngine"]

_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}
_ALL_LAYERS = 1 << 20
_GPUS = ("gpu", "cuda")
_NO_KV_SLOT, _ABORTED = 1, 2  # return values of llama_decode
_TILE = 64
"""llama.cpp's attention takes another path from 64 rows on, and its matrix products take rows by four: a prompt that is
cut only at multiples of 64 gets the same bits however often it is cut. Tested, because llama.cpp promises nothing."""

# The bindings' own make a pointer object at every call; an address is enough, and decoding asks for one per token.
_get_logits, _get_embeddings = (
    ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(ctypes.cast(function, ctypes.c_void_p).value or 0)
    for function in (llama_cpp.llama_get_logits, llama_cpp.llama_get_embeddings)
)


def _load_model(path: Path, config: EngineConfig) -> tuple[Any, packed.PackedWeights]:
    llama_log.install()
    llama_log.clear()
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    gpu = _on_gpu(config)
    params.n_gpu_layers = _ALL_LAYERS if gpu else 0
    overrides = short_factors(path, config.n_ctx)
    if overrides:
        params.kv_overrides = overrides
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP if config.use_mmap else llama_cpp.LLAMA_LOAD_MODE_NONE
    with (
        kernels.loading(config.kernels and not gpu) as report,
        packed.loading(path, wanted=report.active and config.use_mmap) as loading,
    ):
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            reason = llama_log.last_errors() or "no reason given"
            raise FormatError(f"{path}: llama.cpp cannot load this model: {reason}")
    return model, loading.weights


def _on_gpu(config: EngineConfig) -> bool:
    """Whether the layers go to a GPU. Raises `BackendUnavailable` where they should and cannot."""
    word, _ = devices.parse(config.device)
    if word == "auto" and config.require:
        word, _ = devices.parse(config.require)
    required = devices.parse(config.require)[0] if config.require else word
    if word in ("auto", "cpu") and required in ("auto", "cpu"):
        return False
    if word not in _GPUS or required not in _GPUS:
        raise BackendUnavailable(
            f"device {config.device!r} is not one that llama.cpp runs GGUF models on: it has cpu, and gpu where it was "
            f"built for it; others run ONNX packages, which 'edgeinfer convert MODEL DIR --to onnx' makes"
        )
    if not llama_cpp.llama_supports_gpu_offload():
        raise BackendUnavailable(
            f"device {word!r} is not available: this llama-cpp-python {llama_cpp.__version__} was built for the CPU; "
            f"to build it for CUDA: CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-deps --no-cache-dir "
            f"--no-binary llama-cpp-python llama-cpp-python=={llama_cpp.__version__} (Metal: -DGGML_METAL=on)"
        )
    return True


def _is_encoder(model: Any) -> bool:
    """Whether a model's tokens see those after them too, so that nothing can be generated with it."""
    buffer = ctypes.create_string_buffer(128)
    length = llama_cpp.llama_model_meta_val_str(model, b"general.architecture", buffer, len(buffer))
    key = buffer.raw[: max(length, 0)] + b".attention.causal"
    length = llama_cpp.llama_model_meta_val_str(model, key, buffer, len(buffer))
    return buffer.raw[: max(length, 0)] == b"false"


class _PythonFlag:
    """What stands in for `kernels.AbortFlag` where our library could not be built: slower, for llama.cpp enters
    Python at each node."""

    address = None

    def __init__(self) -> None:
        self._raised = False

    def raise_(self) -> None:
        self._raised = True

    def lower(self) -> None:
        self._raised = False

    def callback_address(self, _data: object) -> bool:
        return self._raised


class LlamaCppEngine:
    """The `Engine` protocol over llama.cpp. ``path`` is a GGUF file that `edgeinfer.gguf` has found sound.

    With a ``table`` the tokens of slices are rows of it, whatever the file's own vocabulary: ``n_vocab_in`` of them
    can be read, while logits have ``n_vocab`` columns as ever. The two are the same without.

    Raises `FormatError` when llama.cpp refuses the file or the table is not as wide as the model, `InsufficientMemory`
    when the KV cache cannot be allocated.
    """

    def __init__(self, path: Path, config: EngineConfig, *, table: TokenTable | None = None) -> None:
        self._model, self._packed = _load_model(path, config)
        self.notices: tuple[str, ...] = (self._packed.notice,) if self._packed.notice else ()
        """For the user: what is unusual about how the model was loaded."""
        self._context: Any = None
        try:
            self._open_context(path, config, table)
        except BaseException:
            self.close()
            raise

    def _open_context(self, path: Path, config: EngineConfig, table: TokenTable | None) -> None:
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(vocab)
        self.n_vocab_in: int = table.n_vocab if table else self.n_vocab
        self.n_embd: int = llama_cpp.llama_model_n_embd(self._model)
        if table and table.n_embd != self.n_embd:
            raise FormatError(f"{path}: rows of {table.n_embd} cannot be the inputs of a model of {self.n_embd}")
        self.n_ctx: int = config.n_ctx or llama_cpp.llama_model_n_ctx_train(self._model)
        self.n_seq_max: int = config.n_seq_max
        self._isolate = config.isolate
        self.block_size: int = _TILE if config.isolate else 1
        # llama.cpp ends the process where a batch, or the cache, has no room for a token of every sequence.
        self.n_cells: int = max(config.n_cells or self.n_ctx * config.n_seq_max, config.n_seq_max)
        self._encodes = _is_encoder(self._model)
        # An encoder's tokens see each other: a text is computed whole.
        self.n_batch: int = min(
            max(config.n_batch, self.n_ctx if self._encodes else self.block_size, config.n_seq_max), self.n_cells
        )
        self._flag = kernels.abort_flag() if kernels.available() else _PythonFlag()
        self._abort: Callable[..., bool] = llama_cpp.ggml_abort_callback(self._flag.callback_address)
        self._batch = LlamaBatch(self.n_batch, table)
        self._lengths = [0] * config.n_seq_max
        self._seen, self._view = (0, 0, 0), np.empty((0, 0), np.float32)  # address and shape of the last output
        # Recurrent state is one running value: it can be dropped or copied whole, not cut at a position.
        self.rewinds: bool = not (
            llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model)
        )
        llama_log.clear()
        context = llama_cpp.llama_init_from_model(self._model, self._context_params(config))
        if not context:
            raise InsufficientMemory(
                f"{path}: llama.cpp could not make a context of {self.n_ctx} tokens: "
                f"{llama_log.last_errors() or 'out of memory'}"
            )
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self.n_cells = llama_cpp.llama_n_ctx(context)  # as many, or rounded up

    def _context_params(self, config: EngineConfig) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.n_cells
        params.n_seq_max = config.n_seq_max
        params.n_batch = params.n_ubatch = self.n_batch
        threads = config.n_threads or os.cpu_count() or 1
        params.n_threads = threads
        params.n_threads_batch = config.n_threads_batch or threads
        params.type_k = params.type_v = _KV_TYPES[config.kv_type]
        # Alone in a stream of its own, a sequence lies where it would lie alone; a shared cache shares prefixes.
        params.kv_unified = not config.isolate or config.n_seq_max == 1
        params.swa_full = True  # a window's dropped keys could not be rewound to
        params.no_perf = True
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE  # states of all tokens; pooling is not ours
        params.abort_callback = self._abort
        params.abort_callback_data = self._flag.address
        return params

    # ---- computing

    def forward(self, slices: Sequence[Slice]) -> Logits:
        self._check(slices)
        if not self._isolate:
            return self._pass(slices)
        pieces = [piece for part in slices for piece in cut(part, _TILE)]
        if len(pieces) == 1:
            return self._pass(pieces)
        rows = np.empty((sum(part.n_logits for part in slices), self.n_vocab), np.float32)
        begin = 0
        try:
            for piece in pieces:
                rows[begin : begin + piece.n_logits] = self._pass([piece])
                begin += piece.n_logits
        except (ForwardCancelled, EngineError):
            for part in slices:
                self.truncate(part.seq, part.n_past)
            raise
        return rows

    def _pass(self, slices: Sequence[Slice]) -> Logits:
        """One call of llama_decode."""
        n_rows = self._batch.fill(slices)
        status = llama_cpp.llama_decode(self._context, self._batch.struct)
        if status == 0:
            for part in slices:
                self._lengths[part.seq] += len(part.token_ids)
            return self._rows(_get_logits(self._context), n_rows, self.n_vocab)
        for part in slices:
            self.truncate(part.seq, part.n_past)
        if status == _ABORTED:
            raise ForwardCancelled
        raise self._failure("llama_decode", status)

    def embed(self, seq: int, token_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        states = np.empty((len(token_ids), self.n_embd), np.float32)
        self.release(seq)
        llama_cpp.llama_set_embeddings(self._context, True)
        try:
            for begin in range(0, len(token_ids), self.n_batch):
                chunk = token_ids[begin : begin + self.n_batch]
                part = Slice(seq, chunk, begin, len(chunk))
                if self._encodes:
                    self._encode(part)
                    states[:] = self._rows(_get_embeddings(self._context), len(chunk), self.n_embd)
                    continue
                self._check([part])
                for piece in cut(part, _TILE) if self._isolate else [part]:
                    self._pass([piece])  # each pass overwrites what the one before has left
                    n = len(piece.token_ids)
                    states[piece.n_past : piece.n_past + n] = self._rows(_get_embeddings(self._context), n, self.n_embd)
        finally:
            llama_cpp.llama_set_embeddings(self._context, False)
            self.release(seq)
        return states

    def _encode(self, part: Slice) -> None:
        self._check([part])
        self._batch.fill([part])
        status = llama_cpp.llama_encode(self._context, self._batch.struct)
        if status == _ABORTED:
            raise ForwardCancelled
        if status:
            raise self._failure("llama_encode", status)

    def interrupt(self, on: bool) -> None:
        if on:
            self._flag.raise_()
        else:
            self._flag.lower()

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        llama_cpp.llama_set_n_threads(self._context, n_threads, n_threads_batch)

    def _check(self, slices: Sequence[Slice]) -> None:
        """Refuse what llama.cpp would abort the process for."""
        if sum(len(part.token_ids) for part in slices) > self.n_batch:
            raise EngineError(f"a forward pass takes at most {self.n_batch} tokens")
        for part in slices:
            n = len(part.token_ids)
            if not 0 <= part.seq < self.n_seq_max or part.n_past != self._lengths[part.seq]:
                raise EngineError(f"sequence {part.seq} does not hold {part.n_past} tokens")
            if not 0 < n <= self.n_ctx - part.n_past or not 0 <= part.n_logits <= n:
                raise EngineError(f"a slice of {n} tokens at {part.n_past} does not fit a context of {self.n_ctx}")
            ids = part.token_ids
            if ids[0] < 0 or ids[0] >= self.n_vocab_in or (n > 1 and (ids.min() < 0 or ids.max() >= self.n_vocab_in)):
                raise EngineError(f"a token id lies outside the vocabulary of {self.n_vocab_in}")

    def _rows(self, address: int, n_rows: int, width: int) -> npt.NDArray[np.float32]:
        """llama.cpp's own memory as an array."""
        if n_rows == 0:
            return np.empty((0, width), np.float32)
        where = (address, n_rows, width)
        if where != self._seen:  # llama.cpp rarely moves its output, and making an array takes a while
            memory: Any = (ctypes.c_float * (n_rows * width)).from_address(address)
            self._seen, self._view = where, np.frombuffer(memory, np.float32).reshape(n_rows, width)
        return self._view

    def _failure(self, call: str, status: int) -> EngineError:
        if status == _NO_KV_SLOT:
            return EngineError(f"{call}: no free KV cells ({sum(self._lengths)} of {self.n_cells} held)")
        return EngineError(f"{call} failed with status {status}: {llama_log.last_errors() or 'no reason given'}")

    # ---- sequences

    def length(self, seq: int) -> int:
        return self._lengths[seq]

    def truncate(self, seq: int, n_tokens: int) -> int:
        if n_tokens <= 0 or not llama_cpp.llama_memory_seq_rm(self._memory, seq, n_tokens, -1):
            self.release(seq)
        else:
            self._lengths[seq] = min(self._lengths[seq], n_tokens)
        return self._lengths[seq]

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        self.release(target)
        n_tokens = min(n_tokens, self._lengths[source])
        if n_tokens > 0 and (self.rewinds or n_tokens == self._lengths[source]):
            # Whole, then cut: between streams llama.cpp copies nothing less.
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self._lengths[target] = self._lengths[source]
            self.truncate(target, n_tokens)
        return self._lengths[target]

    def release(self, seq: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, seq, -1, -1)
        self._lengths[seq] = 0

    def export_sequence(self, seq: int) -> memoryview:
        n_bytes = llama_cpp.llama_state_seq_get_size(self._context, seq)
        state = np.empty(n_bytes, np.uint8)
        written = llama_cpp.llama_state_seq_get_data(
            self._context, state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), n_bytes, seq
        )
        if written == 0:
            raise self._failure("llama_state_seq_get_data", 0)
        return state.data[:written]

    def import_sequence(self, seq: int, state: memoryview, n_tokens: int) -> None:
        self.release(seq)
        if not 0 < n_tokens <= self.n_ctx:
            raise FormatError(f"a saved sequence of {n_tokens} tokens does not fit a context of {self.n_ctx}")
        data = np.frombuffer(state, np.uint8)
        llama_log.clear()
        read = llama_cpp.llama_state_seq_set_data(
            self._context, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), len(data), seq
        )
        last = llama_cpp.llama_memory_seq_pos_max(self._memory, seq)
        if read != len(data) or last != n_tokens - 1:
            self.release(seq)
            raise FormatError(f"a saved sequence is not one of this model: {llama_log.last_errors() or 'other length'}")
        self._lengths[seq] = n_tokens

    def close(self) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
        self._packed.close()
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None
