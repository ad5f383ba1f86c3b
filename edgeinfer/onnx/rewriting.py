"""Looking around in an ONNX graph and exchanging its nodes. Knows which value comes from where; no operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["Editor", "attribute", "integer"]

_VIEWS = frozenset({"Cast", "Pad", "Reshape", "Transpose"})
"""Operators whose first input is their output in another shape or type."""


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute: int, float, bytes, or a list of these."""
    from onnx import helper

    for each in node.attribute:
        if each.name == name:
            return helper.get_attribute_value(each)
    return default


def integer(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    value = attribute(node, name, default)
    return value if isinstance(value, int) else default


class Editor:
    """A graph under change. Nodes that are replaced are gone from `nodes` at once; what they alone needed goes with
    `prune`."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self._shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._index()

    def _index(self) -> None:
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in set(node.input):
                self._consumers.setdefault(name, []).append(node)

    def producer(self, value: str) -> onnx.NodeProto | None:
        return self._producers.get(value)

    def only_consumer(self, value: str) -> onnx.NodeProto | None:
        """The node that reads a value; None where several do, or the graph gives it out."""
        found = self._consumers.get(value, [])
        return found[0] if len(found) == 1 and value not in self._outputs else None

    def initializer_shape(self, name: str) -> tuple[int, ...]:
        """Empty for what is no initializer."""
        return self._shapes.get(name, ())

    def origin(self, value: str) -> str:
        """What a value is but for its shape and type."""
        maker = self.producer(value)
        while maker is not None and maker.op_type in _VIEWS:
            value = maker.input[0]
            maker = self.producer(value)
        return value

    def transposed(self, value: str) -> bool:
        """Whether there is one transposition of two dimensions between a value and its origin."""
        n, maker = 0, self.producer(value)
        while maker is not None and maker.op_type in _VIEWS:
            if maker.op_type in ("Pad", "Reshape"):
                return False
            n += maker.op_type == "Transpose"
            maker = self.producer(maker.input[0])
        return n == 1

    def exchange(self, changes: Mapping[int, onnx.NodeProto], gone: set[int]) -> None:
        """Put others in the places of some nodes, by their `id`, and drop those that are ``gone``."""
        self.nodes = [changes.get(id(node), node) for node in self.nodes if id(node) in changes or id(node) not in gone]
        self._index()

    def rename(self, value: str, name: str) -> None:
        """Let the readers of a value read another instead."""
        for node in self._consumers.get(value, []):
            for at, each in enumerate(node.input):
                if each == value:
                    node.input[at] = name
        self._index()

    def prune(self) -> None:
        """Drop nodes that nothing comes of, and initializers that nobody reads; write the nodes back to the graph."""
        wanted, kept = set(self._outputs), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        fresh = type(self.graph)()
        fresh.node.extend(kept[::-1])
        fresh.initializer.extend(tensor for tensor in self.graph.initializer if tensor.name in wanted)
        for field in ("node", "initializer", "value_info"):
            self.graph.ClearField(field)
        self.graph.MergeFrom(fresh)
        self.nodes = list(self.graph.node)
        self._index()
