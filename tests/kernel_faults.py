"""A process whose llama.cpp is not as our kernels want it: ``python kernel_faults.py MODEL FAULT...`` loads the model
under each fault in turn, answers all the same, and prints what came of it as one JSON object a line.

A refusal must leave nothing behind, so one process can meet one fault after the other, and run our kernels in the end.
Only what the plug-in finds by name is altered; llama.cpp itself works on as it is, so that its answers are stock's."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import json
import sys
from collections.abc import Callable
from typing import Any

from llama_cpp import llama_cpp as binding

from edgeinfer import LLM
from edgeinfer.kernels import plugin

_kept: list[object] = []  # what C code holds addresses of

_OP_OFFSET, _DATA_OFFSET = 80, 248  # in ggml_tensor, as in abi/ggml_0_25_3.h
_REGISTRY_BYTES = 48
_MUL_MAT, _MUL_MAT_ID, _FLASH_ATTENTION = 29, 30, 74
_GRAPH_COMPUTE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)


class Altered:
    """The handle through which the plug-in finds functions, with some replaced, or missing where None."""

    def __init__(self, library: Any, **replaced: object) -> None:
        self._library, self._replaced = library, replaced

    def __getattr__(self, name: str) -> object:
        if name not in self._replaced:
            return getattr(self._library, name)
        if self._replaced[name] is None:
            raise AttributeError(name)
        return self._replaced[name]


def replace(**functions: object) -> None:
    _kept.append(functions)
    setattr(binding, "_lib", Altered(binding._lib, **functions))  # noqa: B010 - a module's name, not ours to declare


def real(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of ggml's, called as it is."""
    address = ctypes.cast(getattr(binding._lib, name), ctypes.c_void_p).value
    return ctypes.CFUNCTYPE(result, *arguments)(address or 0)


def package_version() -> None:
    found = importlib.metadata.version

    def version(name: str) -> str:
        return "0.3.35" if name == "llama-cpp-python" else found(name)

    setattr(importlib.metadata, "version", version)  # noqa: B010


def library_version() -> None:
    text = ctypes.create_string_buffer(b"0.25.4")
    _kept.append(text)
    replace(ggml_version=ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.addressof(text)))


def missing_symbol() -> None:
    replace(ggml_threadpool_chunk_add=None)


def structures() -> None:
    overhead = real("ggml_tensor_overhead", ctypes.c_size_t)
    replace(ggml_tensor_overhead=ctypes.CFUNCTYPE(ctypes.c_size_t)(lambda: overhead() + 16))


def operations() -> None:
    """Another operation where MUL_MAT_ID should be."""
    name = real("ggml_op_name", ctypes.c_void_p, ctypes.c_int32)
    shifted = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int32)(lambda op: name(op + (op == _MUL_MAT_ID)))
    replace(ggml_op_name=shifted)


def no_buffer_type() -> None:
    nothing = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(lambda _registry, _name: None)
    replace(ggml_backend_reg_get_proc_address=nothing)


def registry() -> None:
    """One of another interface: a copy with another number at its beginning."""
    found = real("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)

    def altered(device: int) -> int:
        copy = ctypes.create_string_buffer(ctypes.string_at(found(device), _REGISTRY_BYTES), _REGISTRY_BYTES)
        ctypes.c_int32.from_buffer(copy).value += 1
        _kept.append(copy)
        return ctypes.addressof(copy)

    replace(ggml_backend_dev_backend_reg=ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(altered))


def no_memory() -> None:
    nothing = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(lambda _context, _type: None)
    replace(ggml_backend_alloc_ctx_tensors_from_buft=nothing)


def idle_compute() -> None:
    replace(ggml_backend_graph_compute=_GRAPH_COMPUTE(lambda _backend, _graph: 0))


def failing_compute() -> None:
    replace(ggml_backend_graph_compute=_GRAPH_COMPUTE(lambda _backend, _graph: -1))


def wrong_by_one_bit(wanted_op: int) -> None:
    """Graphs that end in ``wanted_op`` have the lowest bit of their first result flipped."""
    compute = real("ggml_backend_graph_compute", ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
    node = real("ggml_graph_node", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)

    def altered(backend: int, graph: int) -> int:
        status: int = compute(backend, graph)
        last: int = node(graph, -1)
        if ctypes.c_int32.from_address(last + _OP_OFFSET).value == wanted_op:
            result = ctypes.c_void_p.from_address(last + _DATA_OFFSET).value
            ctypes.c_uint32.from_address(result or 0).value ^= 1
        return status

    replace(ggml_backend_graph_compute=_GRAPH_COMPUTE(altered))


FAULTS: dict[str, Callable[[], None]] = {
    "package_version": package_version,
    "library_version": library_version,
    "missing_symbol": missing_symbol,
    "structures": structures,
    "operations": operations,
    "no_buffer_type": no_buffer_type,
    "registry": registry,
    "no_memory": no_memory,
    "idle_compute": idle_compute,
    "failing_compute": failing_compute,
    "wrong_product": functools.partial(wrong_by_one_bit, _MUL_MAT),
    "wrong_experts": functools.partial(wrong_by_one_bit, _MUL_MAT_ID),
    "wrong_attention": functools.partial(wrong_by_one_bit, _FLASH_ATTENTION),
}


def outcome(fault: str, model: str) -> dict[str, object]:
    """``fault``: one of `FAULTS`, ``none``, or ``switched_off`` for ``kernels=False``."""
    library, version = binding._lib, importlib.metadata.version
    if fault in FAULTS:
        FAULTS[fault]()
    with LLM(model, n_ctx=512, n_threads=1, kernels=fault != "switched_off") as llm:
        question = [{"role": "user", "content": "Name three rivers."}]
        answer = llm.chat(question, max_tokens=6, temperature=0.0, logprobs=1)
    setattr(binding, "_lib", library)  # noqa: B010
    setattr(importlib.metadata, "version", version)  # noqa: B010
    if plugin._report is not None and not plugin._report.active:
        plugin._report = None  # a process asks once; the next fault wants to be asked as well
    logprobs = [token.logprob for token in answer.tokens]
    return {"fault": fault, "text": answer.text, "logprobs": logprobs, "notices": llm.notices}


if __name__ == "__main__":
    for name in sys.argv[2:]:
        print(json.dumps(outcome(name, sys.argv[1])), flush=True)
