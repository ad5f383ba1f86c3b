"""The process in which llama.cpp quantizes: takes its order as JSON on standard input, tells how it gets on on standard
error. Not for use by hand."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from edgeinfer.converters.quantize.importance import read_importance


def main() -> int:
    order: dict[str, Any] = json.load(sys.stdin)
    callback = llama_cpp.llama_log_callback(_log)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = order["ftype"]
    params.nthread = order["n_threads"]
    params.allow_requantize = True
    kept = [_overrides(order["overrides"], params), _importance(order.get("importance"), params)]
    status = llama_cpp.llama_model_quantize(order["source"].encode(), order["target"].encode(), ctypes.byref(params))
    del kept
    return int(status != 0)


def _log(_level: int, text: bytes, _data: object) -> None:
    sys.stderr.buffer.write(text)
    sys.stderr.buffer.flush()


def _overrides(wanted: list[tuple[str, int]], params: Any) -> object:
    """A list that ends with an empty entry; what it points to must outlive the call."""
    if not wanted:
        return None
    entries = (llama_cpp.llama_model_tensor_override * (len(wanted) + 1))()
    for entry, (pattern, kind) in zip(entries, wanted, strict=False):
        entry.pattern, entry.type = pattern.encode(), kind
    params.tt_overrides = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_tensor_override))
    return entries


def _importance(path: str | None, params: Any) -> object:
    if path is None:
        return None
    found = read_importance(Path(path)).entries
    entries = (llama_cpp.llama_model_imatrix_data * (len(found) + 1))()
    values = []
    for entry, (name, statistics) in zip(entries, found.items(), strict=False):
        flat = np.ascontiguousarray(statistics.means, np.float32).reshape(-1)
        values.append(flat)
        entry.name, entry.size = name.encode(), flat.size
        entry.data = flat.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    return entries, values


if __name__ == "__main__":
    sys.exit(main())
