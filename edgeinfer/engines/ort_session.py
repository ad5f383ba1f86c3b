"""ONNX Runtime sessions over one graph: opened from checked bytes, run through bindings, stopped from any thread.

Owns sessions, their threads and the flag that stops a run. Knows no tokens and no memory of keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from edgeinfer.engines import ort_placement, ort_provider
from edgeinfer.engines.base import ForwardCancelled
from edgeinfer.engines.ort_placement import Placement
from edgeinfer.engines.ort_provider import Found
from edgeinfer.errors import BackendUnavailable, EngineError, FormatError
from edgeinfer.onnx import operators

__all__ = ["Graph", "Sessions", "Stop", "value"]

ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
"""What ONNX Runtime raises: its codes are classes with no common parent."""


def value(array: npt.NDArray[Any]) -> onnxruntime.OrtValue:
    """A tensor that is the array's own memory: writing to either changes both. The array must be contiguous."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


@dataclass(frozen=True, slots=True)
class Graph:
    """What sessions are opened from. ``model``: a checked graph, serialized; ``folder``: where its data files lie.
    ``hidden``: its output of hidden states, if it has one. ``initializers``: weights that are handed over instead,
    which the session reads where they are. ``ours``: it has our operators.
    ``exact_inputs``: products take their inputs as they are, integers or not, and round them no further."""

    model: bytes
    folder: Path
    hidden: str = ""
    initializers: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    ours: bool = False
    exact_inputs: bool = False


class Stop:
    """The flag that ends runs: the run options of every run. May be raised from any thread."""

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = 4

    @property
    def raised(self) -> bool:
        return bool(self.options.terminate)

    def set(self, on: bool) -> None:
        self.options.terminate = on


class Sessions:
    """One graph for two thread counts: one session where they are equal, else a second for wide passes, opened when
    the first of them comes. Raises what `open_session` raises."""

    def __init__(self, graph: Graph, found: Found, n_threads: int, n_threads_batch: int, stop: Stop) -> None:
        self._graph = graph
        self._found = found
        self._stop = stop
        self._by_threads: dict[int, Any] = {}
        self._n_threads, self._n_threads_batch = n_threads, n_threads_batch
        self._get(n_threads)

    def of(self, n_rows: int) -> Any:
        """The session for a pass of so many tokens."""
        return self._get(self._n_threads if n_rows == 1 else self._n_threads_batch)

    def _get(self, n_threads: int) -> Any:
        if n_threads not in self._by_threads:
            self._by_threads[n_threads] = open_session(self._graph, self._found, n_threads)
        return self._by_threads[n_threads]

    def set_threads(self, n_threads: int, n_threads_batch: int) -> bool:
        """Returns whether sessions were closed, so that bindings to them are void: a session keeps its threads."""
        self._n_threads, self._n_threads_batch = n_threads, n_threads_batch
        unused = set(self._by_threads) - {n_threads, n_threads_batch}
        for each in unused:
            del self._by_threads[each]
        self._get(n_threads)
        return bool(unused)

    def run(self, session: Any, binding: Any) -> None:
        """Raises `ForwardCancelled` after the flag was raised, `EngineError`."""
        try:
            session.run_with_iobinding(binding, self._stop.options)
        except ERRORS as error:
            if self._stop.raised:
                raise ForwardCancelled from None
            raise EngineError(f"ONNX Runtime failed: {_one_line(error)}") from error

    def placement(self) -> Placement | None:
        """Where the nodes lie; None where this version of ONNX Runtime does not tell."""
        session = self._get(self._n_threads)
        if not hasattr(session, "get_provider_graph_assignment_info"):
            return None
        return ort_placement.of_session(session, self._found.provider.word, self._found.kind)

    def close(self) -> None:
        self._by_threads.clear()


def open_session(graph: Graph, found: Found, n_threads: int) -> Any:
    """Raises `BackendUnavailable` where the provider does not take the graph or its hardware is not there,
    `FormatError` where the CPU provider does not take it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = False  # a pattern would be kept for every length that a sequence ever has
    for key, setting in _settings(graph).items():
        options.add_session_config_entry(key, setting)
    providers = ort_provider.add_to(options, found, n_threads)
    try:
        if graph.ours:
            operators.register(options)
        values = {name: value(array) for name, array in graph.initializers.items()}
        for name, tensor in values.items():
            options.add_initializer(name, tensor)
        session = onnxruntime.InferenceSession(graph.model, options, providers=providers or None)
    except ERRORS as error:
        if found.is_cpu:
            raise FormatError(f"{graph.folder}: ONNX Runtime cannot load this graph: {_one_line(error)}") from error
        raise BackendUnavailable(f"{found.words} does not take {graph.folder}: {_one_line(error)}") from error
    session.disable_fallback()  # to another provider, silently, after an error
    session.edgeinfer_initializers = values  # they must outlive it
    return session


def _settings(graph: Graph) -> dict[str, str]:
    return {
        "session.model_external_initializers_file_folder_path": str(graph.folder),
        "session.record_ep_graph_assignment_info": "1",
        "session.force_spinning_stop": "1",  # threads wait actively within a run, and sleep between runs
        # int8 activations, as MatMulNBits of the cpu variant has them, or float32
        "session.qdq_matmulnbits_accuracy_level": "1" if graph.exact_inputs else "4",
        # products of integers that overflow on processors before VNNI otherwise
        **({"session.x64quantprecision": "1"} if graph.exact_inputs else {}),
    }


def bind(session: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    """A binding of values by name."""
    binding = session.io_binding()
    for name, tensor in inputs.items():
        binding.bind_ortvalue_input(name, tensor)
    for name, tensor in outputs.items():
        binding.bind_ortvalue_output(name, tensor)
    return binding


def floats(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Zeros whose pages become resident when they are first written."""
    return np.zeros(shape, np.float32)


def _one_line(error: Exception) -> str:
    """The beginning says where it failed, the end why; what lies between may be pages."""
    line = " ".join(str(error).split())
    return line if len(line) <= 600 else f"{line[:200]} … {line[-400:]}"
