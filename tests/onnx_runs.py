"""Graphs of packages through plain ONNX Runtime, by hand: what the engine does, without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgeinfer.onnx.package import Package

__all__ = ["Dynamic", "Static", "divergence", "session"]

Floats = npt.NDArray[np.float32]


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Dynamic:
    """Variant cpu; remembers what it was given."""

    def __init__(self, folder: Path) -> None:
        self._session = session(folder / "model.onnx")
        self._past: dict[str, Floats] = {}
        for value in self._session.get_inputs():
            if value.name.startswith("past"):
                self._past[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)

    def __call__(self, ids: npt.NDArray[np.int32], first: int | None = None) -> Floats:
        """Logits of the tokens from ``first`` on; of all where it is not given."""
        n_past = next(iter(self._past.values())).shape[2]
        inputs = {
            "input_ids": ids[None].astype(np.int64),
            "attention_mask": np.ones((1, n_past + len(ids)), np.int64),
            **self._past,
        }
        if first is not None:
            inputs["logits_from"] = np.array([first])
        names = [value.name for value in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(None, inputs), strict=True))
        self._past = {name: found[name.replace("past_key_values", "present")] for name in self._past}
        logits: Floats = found["logits"][0]
        return logits


class Static:
    """One graph of variant npu, with all that a host does."""

    def __init__(self, package: Package, folder: Path, size: int, table: Floats) -> None:
        variant, self._sizes = package.variants["npu"], package.hyperparameters
        self._session = session(folder / variant.models[variant.s.index(size)])
        self._table, self._size, self._n_ctx = table, size, variant.n_ctx or 0
        self._n_past = 0
        shape = (1, self._sizes.n_kv_heads, self._n_ctx, self._sizes.head_dim)
        names = [value.name for value in self._session.get_inputs()]
        self._wanted = set(names)
        self._past = {name: np.zeros(shape, np.float32) for name in names if name.startswith("past")}

    def __call__(self, ids: npt.NDArray[np.int32]) -> Floats:
        """Logits of as many tokens as the graph takes."""
        end = self._n_past + self._size
        inputs = {"embeddings": self._table[ids][None], **self._past, **self._masks(), **self._angles()}
        inputs = {name: value for name, value in inputs.items() if name in self._wanted}  # as the layers need
        names = [value.name for value in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(None, inputs), strict=True))
        for name, kept in self._past.items():
            kept[:, :, self._n_past : end] = found[name.replace("past_key_values", "present")]
        self._n_past = end
        logits: Floats = found["logits"][0]
        return logits

    def _masks(self) -> dict[str, Floats]:
        at = self._n_past + np.arange(self._size)
        columns = np.concatenate([np.arange(self._n_ctx), at])
        there = np.concatenate([np.arange(self._n_ctx) < self._n_past, np.ones(self._size, np.bool_)])
        distance = at[:, None] - columns
        window = self._sizes.sliding_window
        seen = {"mask": there & (distance >= 0)}
        if window:
            seen["mask_window"] = seen["mask"] & (distance < window)
        return {name: np.where(see, np.float32(0), np.float32(-30000))[None, None] for name, see in seen.items()}

    def _angles(self) -> dict[str, Floats]:
        sizes, made = self._sizes, {}
        exponents = -np.arange(0, sizes.head_dim, 2) / sizes.head_dim
        ropes = {"rope": np.array(sizes.rope_frequencies or sizes.rope_theta**exponents)}
        if sizes.rope_theta_local:
            ropes["rope_local"] = sizes.rope_theta_local**exponents
        for name, frequencies in ropes.items():
            magnitude = sizes.rope_magnitude if name == "rope" else 1
            angles = (self._n_past + np.arange(self._size))[:, None] * frequencies
            for part, table in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
                made[f"{name}.{part}"] = (magnitude * table).astype(np.float32)[None, None]
        return made


def divergence(a: Floats, b: Floats) -> Floats:
    """KL of b from a, a row."""
    logs = []
    for logits in (a, b):
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        logs.append(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
    found: Floats = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1)
    return found
