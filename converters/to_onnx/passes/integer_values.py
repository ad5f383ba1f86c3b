"""What products of matrices take and give as integers: `QuantizeLinear` and `DequantizeLinear` around each, by which
runtimes know products to be computed in integers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np
import onnx_ir as ir

from edgeinfer.converters.to_onnx.graph import constant

__all__ = ["IntegerValues", "Known", "Role", "Step"]

Role = Literal["input", "output", "attention"]
"""Of a value: multiplied with a weight, the product with a weight, or any of a product of two values."""

_MOVED = frozenset(("Identity", "Reshape", "Split", "Transpose"))
"""Operators that leave values as they are."""
_DTYPES = {8: np.uint8, 16: np.uint16}


class Step(Protocol):
    """x = scale * (q - zero_point), q unsigned with so many bits."""

    @property
    def bits(self) -> int: ...
    @property
    def scale(self) -> np.float32: ...
    @property
    def zero_point(self) -> int: ...


class Known(Protocol):
    """What is known of values by name."""

    def of(self, name: str, role: Role, product: str) -> Step | None:
        """The steps of a value that takes part in ``product``; None: it stays as it is."""
        ...


class IntegerValues(ir.passes.InPlacePass):
    """Values have the name under which they were computed, however they were moved since; those of the cache have that
    of the new ones which go into it."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._made: dict[tuple[ir.Value, int], ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        presents = {value.name: value for value in graph.outputs}
        plan = [(node, *self._wanted(node, presents)) for node in graph if node.op_type == "MatMul"]
        for node, inputs, output in plan:
            for at, (step, name) in inputs.items():
                node.replace_input_with(at, self._as_integers(graph, node, node.inputs[at], step, name))
            if output is not None:
                self._after(graph, node, *output)
        return ir.passes.PassResult(model, modified=bool(plan))

    def _wanted(
        self, node: ir.Node, presents: dict[str | None, ir.Value]
    ) -> tuple[dict[int, tuple[Step, str]], tuple[Step, str] | None]:
        """Steps for its inputs, by place, and for its output; all are known before anything is changed."""
        product = node.name or ""
        with_weight = any(_is_weight(value) for value in node.inputs)
        inputs = {}
        for at, value in enumerate(node.inputs):
            if value is None or _is_weight(value):
                continue
            name = _origin(value, presents)
            step = self._known.of(name, "input" if with_weight else "attention", product)
            if step is not None:
                inputs[at] = (step, name)
        name = node.outputs[0].name or ""
        step = self._known.of(name, "output" if with_weight else "attention", product)
        return inputs, None if step is None else (step, name)

    def _as_integers(self, graph: ir.Graph, before: ir.Node, value: ir.Value | None, step: Step, name: str) -> ir.Value:
        """The value through integers, made once for all that take it."""
        if value is None:
            raise ValueError(f"{before.name} has no input")
        key = (value, step.bits)
        if key not in self._made:
            nodes = list(_pair(graph, value, step, name))
            graph.insert_before(before, nodes)
            self._made[key] = nodes[-1].outputs[0]
        return self._made[key]

    def _after(self, graph: ir.Graph, node: ir.Node, step: Step, name: str) -> None:
        old = node.outputs[0]
        nodes = list(_pair(graph, old, step, name))
        new = nodes[-1].outputs[0]
        graph.insert_after(node, nodes)
        uses = [use for use in old.uses() if use.node is not nodes[0]]
        for use in uses:
            use.node.replace_input_with(use.idx, new)
        for at, output in enumerate(graph.outputs):
            if output is old:
                new.shape, new.type = old.shape, old.type
                old.name, new.name = f"{name}.raw", name
                graph.outputs[at] = new


def _pair(graph: ir.Graph, value: ir.Value, step: Step, name: str) -> Iterator[ir.Node]:
    dtype = _DTYPES[step.bits]
    scale = _constant(graph, f"{name}.scale{step.bits}", np.float32(step.scale))
    zero = _constant(graph, f"{name}.zero{step.bits}", dtype(step.zero_point))
    at = f"{value.name}.int{step.bits}"
    q = ir.node("QuantizeLinear", [value, scale, zero], name=at, outputs=[ir.Value(name=at)])
    yield q
    back = f"{at}.floats"
    yield ir.node("DequantizeLinear", [q.outputs[0], scale, zero], name=back, outputs=[ir.Value(name=back)])


def _constant(graph: ir.Graph, name: str, array: np.generic) -> ir.Value:
    if name not in graph.initializers:
        graph.register_initializer(constant(name, np.asarray(array)))
    return graph.initializers[name]


def _is_weight(value: ir.Value | None) -> bool:
    """Made of an initializer alone."""
    while value is not None and (maker := value.producer()) is not None:
        if maker.op_type not in ("Cast", "DequantizeLinear", "Transpose"):
            return False
        value = maker.inputs[0]
    return value is not None and value.const_value is not None


def _origin(value: ir.Value, presents: dict[str | None, ir.Value]) -> str:
    while True:
        maker = value.producer()
        if maker is not None and maker.op_type in _MOVED and maker.inputs[0] is not None:
            value = maker.inputs[0]
        elif maker is None and (value.name or "").startswith("past_key_values."):
            value = presents[(value.name or "").replace("past_key_values", "present")]
        else:
            return value.name or ""
