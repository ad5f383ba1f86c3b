"""The matrix products of a package's graph, whatever it writes them as: a ``MatMulNBits`` with or without the product
that adds its offsets, a ``MatMul`` with floats; a bias behind it. Finds them; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeinfer.errors import UnsupportedModel
from edgeinfer.onnx.rewriting import Editor, integer

if TYPE_CHECKING:
    import onnx

__all__ = ["Product", "find_products"]


@dataclass(slots=True)
class Product:
    """``y = x @ weight.T + bias``. ``weight``: the tensor's name in the source; ``bits`` 4 or 8 in blocks of ``block``
    weights, or 32 for floats; ``correction``: offsets under one scale, 0 without them; ``zero_points``: whether blocks
    have them. ``nodes``: those that compute it, the first of them where another may stand for them all."""

    weight: str
    x: str
    y: str
    n_rows: int
    n_cols: int
    bits: int
    block: int
    correction: int = 0
    bias: str = ""
    zero_points: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)


def find_products(graph: Editor) -> Iterator[Product]:
    """All of them in the graph's order. Raises `UnsupportedModel` for a product that is none of those forms."""
    corrections = {node.name for node in graph.nodes if node.op_type == "MatMulNBits" and _is_correction(graph, node)}
    for node in graph.nodes:
        if node.op_type == "MatMulNBits" and node.name not in corrections:
            yield _with_ends(graph, _in_blocks(node))
        elif node.op_type == "MatMul":
            yield _with_ends(graph, _of_floats(graph, node))


def _is_correction(graph: Editor, node: onnx.NodeProto) -> bool:
    return graph.origin(node.input[1]).endswith(".correction.q")


def _in_blocks(node: onnx.NodeProto) -> Product:
    weight = node.input[1].removesuffix(".q")
    parts = [name for name in node.input[2:] if name]
    zero_points = len(parts) > 1
    if parts != [f"{weight}.scales", *([f"{weight}.zeros"] if zero_points else [])] or len(node.input) > 4:
        raise UnsupportedModel(f"node {node.name!r} does not multiply by a weight and its scales")
    n_rows, n_cols, n_bits, block = (integer(node, key) for key in ("N", "K", "bits", "block_size"))
    ends = node.input[0], node.output[0]
    return Product(weight, *ends, n_rows, n_cols, n_bits, block, zero_points=zero_points, nodes=[node])


def _of_floats(graph: Editor, node: onnx.NodeProto) -> Product:
    """A product with the transpose of a weight, which lies in rows."""
    weight, shape = graph.origin(node.input[1]), graph.initializer_shape(graph.origin(node.input[1]))
    if len(shape) != 2 or not graph.transposed(node.input[1]):
        raise UnsupportedModel(f"node {node.name!r} does not multiply by the transpose of a weight")
    return Product(weight, node.input[0], node.output[0], shape[0], shape[1], 32, 0, nodes=[node])


def _with_ends(graph: Editor, product: Product) -> Product:
    """What is added to the product: offsets, a bias."""
    for _ in range(2):
        follower = graph.only_consumer(product.y)
        if follower is None or follower.op_type != "Add":
            break
        other = follower.input[1] if follower.input[0] == product.y else follower.input[0]
        maker = graph.producer(other)
        if maker is not None and maker.op_type == "MatMulNBits" and _is_correction(graph, maker):
            if product.correction or graph.origin(maker.input[1]) != f"{product.weight}.correction.q":
                break
            product.correction = integer(maker, "block_size")
        elif not product.bias and graph.initializer_shape(other) == (product.n_rows,):
            product.bias = other
        else:
            break
        product.nodes.append(follower)
        product.y = follower.output[0]
    return product
