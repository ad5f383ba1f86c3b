"""Making nodes, and replacing the abstract operators of a plan by others. Knows no operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["CONTRIB", "PLAN", "Attributes", "Nodes", "attribute", "capped", "constant", "rewrite", "typed"]

PLAN = "edgeinfer.plan"
"""Domain of the abstract operators; none is left in a finished graph."""
CONTRIB = "com.microsoft"

Attributes = Mapping[str, int | float | str | Sequence[int]]


class Nodes:
    """Nodes and initializers in the making, in order."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}

    def __call__(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        name: str,
        domain: str = "",
        outputs: Sequence[str] | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Add a node and answer its first output, which has the node's name where ``outputs`` gives no others."""
        values = [ir.Value(name=output) for output in outputs or (name,)]
        taken = [self._known(value) for value in inputs]
        self.nodes.append(ir.node(op_type, taken, attributes, domain=domain, outputs=values, name=name))
        return values[0]

    def _known(self, value: ir.Value | None) -> ir.Value | None:
        """The same, or the constant that has its name already."""
        if value is None or value.const_value is None or not value.name:
            return value
        return self.constants.setdefault(value.name, value)

    def last(self) -> ir.Node:
        return self.nodes[-1]

    def reshape(self, value: ir.Value, shape: Sequence[int], name: str) -> ir.Value:
        """0 keeps a dimension, -1 is worked out."""
        return self("Reshape", value, constant("shape." + ".".join(map(str, shape)), np.array(shape)), name=name)


def constant(name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """A small initializer inside the graph."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


def capped(x: ir.Value, cap: float, name: str, add: Nodes) -> ir.Value:
    """cap * tanh(x / cap)."""
    x = add("Mul", x, constant(f"per_cap.{cap!r}", np.float32(1 / cap).reshape(1)), name=f"{name}.small")
    x = add("Tanh", x, name=f"{name}.tanh")
    return add("Mul", x, constant(f"cap.{cap!r}", np.float32(cap).reshape(1)), name=name)


def typed(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    """An input or output of a graph."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def attribute(node: ir.Node, name: str) -> Any:
    return node.attributes[name].value


def register(graph: ir.Graph, constants: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """Make constants initializers of a graph; of those with one name the first stays. Answers those to be replaced."""
    again = {}
    for name, value in constants.items():
        if name not in graph.initializers:
            graph.register_initializer(value)
        elif graph.initializers[name] is not value:
            again[name] = value
    return again


def rewrite(model: ir.Model, op_type: str, replace: Callable[[ir.Node, Nodes], ir.Value]) -> bool:
    """Replace every node of an abstract operator by what ``replace`` adds to the `Nodes`; the value that it answers
    takes the place, and the name, of the old one. True where there was any."""
    graph, found = model.graph, False
    for node in list(graph):
        if node.domain != PLAN or node.op_type != op_type:
            continue
        found = True
        made = Nodes()
        old, new = node.outputs[0], replace(node, made)
        for name, value in register(graph, made.constants).items():
            for maker in made.nodes:
                for index, taken in enumerate(maker.inputs):
                    if taken is value:
                        maker.replace_input_with(index, graph.initializers[name])
        if made.nodes:
            graph.insert_before(node, made.nodes)
        for value in (value for maker in made.nodes for value in maker.outputs):
            if value.name == old.name and value is not new:
                value.name = f"{old.name}.raw"
        if new.producer() in made.nodes:
            new.name, new.shape, new.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    return found
