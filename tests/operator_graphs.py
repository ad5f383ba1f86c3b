"""Graphs of one of our operators, run by ONNX Runtime, and what they should give."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import TensorProto, helper

from edgeinfer.kernels import library

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}
_TYPES |= {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32}


def run(
    op_type: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    feeds: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    *,
    n_threads: int = 2,
    **attributes: Any,
) -> list[Any]:
    """One node. Inputs have the types of the feeds, and no shapes: what does not fit is found by the operator."""
    attributes.setdefault("n_threads", n_threads)
    attributes.setdefault("n_threads_batch", n_threads)
    node = helper.make_node(op_type, inputs, outputs, "the.node", domain="edgeinfer", **attributes)
    infos = [helper.make_tensor_value_info(name, _TYPES[str(array.dtype)], None) for name, array in feeds.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name]
    initializers = [
        helper.make_tensor(name, _TYPES[str(array.dtype)], array.shape, array.tobytes(), raw=True)
        for name, array in (constants or {}).items()
    ]
    graph = helper.make_graph([node], "g", infos, results, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("edgeinfer", 1)]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = n_threads
    options.register_custom_ops_library(library.load()._name)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, dict(feeds))
    return found


@contextlib.contextmanager
def forced(isa: str | None) -> Iterator[None]:
    """Kernels of one instruction set only."""
    library.load().ei_force_isa(isa.encode() if isa else None)
    try:
        yield
    finally:
        library.load().ei_force_isa(None)
