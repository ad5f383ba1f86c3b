"""One small graph with each of our operators, computed by ONNX Runtime and by NumPy: whether the two are made for each
other. It is no test of the kernels, which have theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer import kernels
from edgeinfer.kernels import library

__all__ = ["TOLERANCE", "difference"]

TOLERANCE = 0.05
"""Of the largest result: quantized weights, inputs and keys are off by some hundredths at most."""

Floats = npt.NDArray[np.float32]
_N, _HEADS, _DIM, _CELLS = 3, 2, 32, 5
_WIDTH = _HEADS * _DIM
_EPSILON = 1e-5


def difference(path: str) -> float:
    """How far the results are apart, as a part of the largest. ``path``: the library. Raises what ONNX Runtime
    raises."""
    import onnxruntime

    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, _N, _WIDTH)).astype(np.float32)
    weights = [(rng.standard_normal((_WIDTH, _WIDTH)) / 8).astype(np.float32) for _ in range(3)]
    packed = [_packed(weight) for weight in weights]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(path)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in packed]
    for i, value in enumerate(values):
        options.add_initializer(f"w{i}", value)
    session = onnxruntime.InferenceSession(_model(), options, providers=["CPUExecutionProvider"])
    mask = np.full((_N, _CELLS), -np.inf, np.float16)
    for i in range(_N):
        mask[i, 1 : 2 + i] = 0
    pool = np.zeros((1, 2, _CELLS, _WIDTH * 2), np.uint8)
    cells = np.arange(1, 1 + _N)
    (found,) = session.run(None, {"x": x, "positions": np.arange(_N), "cells": cells, "mask": mask, "pool": pool})
    wanted = _reference(x[0], weights)
    return float(np.abs(found[0] - wanted).max() / np.abs(wanted).max())


def _packed(weight: Floats) -> npt.NDArray[np.uint8]:
    ours, type_id = library.load(), 8  # Q8_0
    rows = kernels.quantize("Q8_0", weight)
    memory = np.empty(ours.ei_packed_bytes(type_id, _WIDTH, _WIDTH) + 64, np.uint8)
    data = memory[-memory.ctypes.data % 64 :][: memory.size - 64]
    ours.ei_pack(
        type_id, rows.ctypes.data, rows.shape[1], _WIDTH, _WIDTH, data.ctypes.data, 0, ours.ei_n_panels(_WIDTH)
    )
    return data


def _model() -> bytes:
    from onnx import TensorProto, helper

    def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> Any:
        return helper.make_node(op_type, inputs.split(), outputs.split(), op_type, domain="edgeinfer", **attributes)

    angles = np.arange(_N)[:, None] * 0.5 ** np.arange(_DIM // 2)
    tables = {"cos": np.cos(angles), "sin": np.sin(angles), "ones": np.ones(_WIDTH)}
    initializers = [
        helper.make_tensor(name, TensorProto.FLOAT, list(table.shape), table.astype(np.float32).tobytes(), raw=True)
        for name, table in tables.items()
    ]
    initializers += [helper.make_tensor(f"w{i}", TensorProto.UINT8, [1], b"\0", raw=True) for i in range(3)]
    nodes = [
        node("Normalize", "x ones", "n", epsilon=_EPSILON),
        node("Multiply", "n w0 w1 w2", "q k v", n_cols=_WIDTH, n_rows=[_WIDTH] * 3, formats=[8] * 3, biased=[0] * 3),
        node(
            "Attention",
            "q k v cos sin positions cells mask pool",
            "a",
            layer=0,
            n_heads=_HEADS,
            n_kv_heads=_HEADS,
            kv_format=1,
            scale=_DIM**-0.5,
        ),
        node("Gate", "a x", "y", activation="silu"),
    ]
    inputs = {
        "x": (TensorProto.FLOAT, [1, _N, _WIDTH]),
        "positions": (TensorProto.INT64, [_N]),
        "cells": (TensorProto.INT64, [_N]),
        "mask": (TensorProto.FLOAT16, [_N, _CELLS]),
        "pool": (TensorProto.UINT8, [1, 2, _CELLS, _WIDTH * 2]),
    }
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, _N, _WIDTH])
    graph = helper.make_graph(nodes, "self-test", infos, [y], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("edgeinfer", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def _reference(x: Floats, weights: list[Floats]) -> npt.NDArray[np.float64]:
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + _EPSILON)
    q, k, v = (np.asarray(normed @ weight.T).reshape(_N, _HEADS, _DIM) for weight in weights)
    angles = (np.arange(_N)[:, None] * 0.5 ** np.arange(_DIM // 2))[:, None]

    def turned(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        a, b = t[..., : _DIM // 2], t[..., _DIM // 2 :]
        return np.concatenate(
            [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1
        )

    scores = np.einsum("ihd,jhd->hij", turned(q), turned(k)) * _DIM**-0.5
    scores = np.where(np.tri(_N, dtype=np.bool_), scores, -np.inf)
    weight = np.exp(scores - scores.max(axis=2, keepdims=True))
    weight /= weight.sum(axis=2, keepdims=True)
    a = np.einsum("hij,jhd->ihd", weight, v).reshape(_N, _WIDTH)
    gated: npt.NDArray[np.float64] = a / (1 + np.exp(-a)) * x
    return gated
