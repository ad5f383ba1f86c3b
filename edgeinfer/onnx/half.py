"""Attention in half precision, put into a graph as it is loaded: what GPUs have fast kernels for. Everything else stays
as it is. The cache is then float16, half as large. Knows no runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["attend_in_half"]


def attend_in_half(proto: onnx.ModelProto) -> None:
    """Cast what goes into each ``GroupQueryAttention`` to float16 and what comes out back to float32; its cache, which
    are inputs and outputs of the graph, becomes float16."""
    from onnx import TensorProto, helper

    half: dict[str, str] = {}
    caches: set[str] = set()
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    for node in nodes:
        if node.op_type != "GroupQueryAttention":
            proto.graph.node.append(node)
            continue
        for at in (0, 1, 2, 7, 8):  # queries, keys, values, and the tables of rotations
            name = node.input[at] if at < len(node.input) else ""
            if name and name not in half:
                half[name] = f"{name}.half"
                proto.graph.node.append(
                    helper.make_node("Cast", [name], [half[name]], half[name], to=TensorProto.FLOAT16)
                )
            if name:
                node.input[at] = half[name]
        caches |= {*node.input[3:5], *node.output[1:3]}
        out = node.output[0]
        node.output[0] = f"{out}.half"
        proto.graph.node.append(node)
        back = helper.make_node("Cast", [node.output[0]], [out], f"{out}.single", to=TensorProto.FLOAT)
        proto.graph.node.append(back)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name in caches:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
