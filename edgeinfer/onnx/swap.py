"""Our operators in the place of ONNX Runtime's: the same graph with matrix products over packed weights, and attention
over one pool of cells that all sequences share. Answers are then the same bits in any company.

The graph that comes out takes

    input_ids    int64 (1, S)           tokens of any sequences, in any order that has a token after those it sees
    positions    int64 (S,)             of each in its sequence
    cells        int64 (S,)             where its keys and values go
    mask         float16 (S, n_kv)      0 where it sees a cell, -inf where not, over the first n_kv of the pool
    mask_window  float16 (S, n_kv)      the same for layers with a window, if there are any
    rows         int64 (R,)             which of the S get logits
    pool         uint8 (n_layers, 2, n_cells, cell_bytes)    keys and values, written in place

and gives ``logits`` float32 (1, R, n_vocab). Owns the patterns that are replaced; what is between them must be
operators that treat each element by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import UnsupportedModel
from edgeinfer.onnx import operators
from edgeinfer.onnx.initializers import Initializers
from edgeinfer.onnx.package import Package
from edgeinfer.onnx.packing import PackedMatrices, pack
from edgeinfer.onnx.products import Product, find_products
from edgeinfer.onnx.rewriting import Editor, attribute, integer

if TYPE_CHECKING:
    import onnx

__all__ = ["DOMAIN", "Swapped", "swap"]

DOMAIN = "edgeinfer"
_KV_FORMATS = {"f16": (1, 1, 2), "q8_0": (8, 32, 34)}  # GGUF type, elements and bytes of a block
_MOST_TOGETHER = 4
_PAST = re.compile(r"past_key_values\.(\d{1,4})\.key")
_ELEMENTWISE = frozenset(
    ("Add", "Cast", "Concat", "Gather", "GatherBlockQuantized", "Identity", "Mul", "Pad", "Reshape", "Slice", "Split")
)


@dataclass(frozen=True, slots=True)
class Swapped:
    """A graph with our operators, and what a session of it needs: ``initializers`` go to
    ``SessionOptions.add_initializer`` and must outlive the session. ``windowed_layers`` read ``mask_window``."""

    proto: onnx.ModelProto
    initializers: dict[str, npt.NDArray[np.uint8]]
    n_layers: int
    cell_bytes: int
    windowed_layers: tuple[int, ...]
    notice: str
    packed: PackedMatrices

    @property
    def model(self) -> bytes:
        return bytes(self.proto.SerializeToString())

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.proto.graph.input)

    def close(self) -> None:
        """No session reads the initializers any more."""
        self.packed.close()


def swap(
    package: Package,
    proto: onnx.ModelProto,
    *,
    n_threads: int,
    n_threads_batch: int,
    kv_type: Literal["f16", "q8_0"] = "f16",
    variant: str = "cpu",
) -> Swapped:
    """Exchange the operators of ``proto``, the graph of that variant as it was read, which is changed.

    ``n_threads`` of a session's threads compute passes of one token, ``n_threads_batch`` others; 0: as many as there
    are processors. Raises `UnsupportedModel` for a graph with something between our operators whose answers could
    depend on company, or that ours do not do; `FormatError` for weights that are not of the shapes that nodes say;
    `BackendUnavailable` without the library.
    """
    folder = package.variants[variant].model.rpartition("/")[0]
    weights = Initializers(proto, lambda name: package.path(f"{folder}/{name}" if folder else name))
    lacking = operators.lacking(package.hyperparameters)
    if lacking:  # before anything is packed, which takes its time
        raise UnsupportedModel(lacking)
    graph = Editor(proto.graph)
    products = list(find_products(graph))
    sizes = package.hyperparameters
    block, n_bytes = _KV_FORMATS[kv_type][1:]
    if sizes.head_dim % max(block, 16) or sizes.head_dim > 512:
        raise UnsupportedModel(f"heads of {sizes.head_dim} cannot be kept as {kv_type}")
    types = {name: form.type for name, form in package.tensors.items()}
    matrices = pack(package.folder, products, weights, types)
    try:
        threads = {"n_threads": n_threads, "n_threads_batch": n_threads_batch}
        work = _Swap(graph, sizes.head_dim, threads, kv_type, fine=_is_fine(package, products, matrices))
        work.multiply(products, matrices)
        work.gate()
        work.normalize()
        work.attend()
        work.take_rows()
        work.finish(proto)
    except BaseException:
        matrices.close()
        raise
    return Swapped(
        proto,
        {_packed_name(product.weight): matrices[product.weight].data for product in products},
        work.n_layers,
        sizes.n_kv_heads * sizes.head_dim // block * n_bytes,
        tuple(work.windowed),
        matrices.notice,
        matrices,
    )


def _is_fine(package: Package, products: list[Product], matrices: PackedMatrices) -> bool:
    """Whoever keeps 8 bits of every weight wants the model as it was: rounding inputs to 8 as well would cost more than
    rounding the weights does, so that there they have two terms. `int8-dynamic` asks for just that rounding."""
    types = {matrices[product.weight].type_name for product in products}
    return package.mode != "int8-dynamic" and types <= {"Q8_0", "F32", "F16", "BF16"}


def _packed_name(weight: str) -> str:
    return f"{weight}.packed"


class _Swap:
    def __init__(self, graph: Editor, head_dim: int, threads: dict[str, int], kv_type: str, *, fine: bool) -> None:
        self._graph = graph
        self._head_dim = head_dim
        self._threads = threads
        self._kv_type = kv_type
        self._fine = fine
        self.n_layers = 0
        self.windowed: list[int] = []

    def _node(self, op_type: str, inputs: list[str], outputs: list[str], name: str, **attributes: Any) -> Any:
        from onnx import helper

        return helper.make_node(op_type, inputs, outputs, name, domain=DOMAIN, **{**attributes, **self._threads})

    # ---- products

    def multiply(self, products: list[Product], matrices: PackedMatrices) -> None:
        """Those with one input become one node, at the place of the first."""
        groups: list[list[Product]] = []
        for product in products:
            last = next((group for group in groups if group[0].x == product.x), None)
            if last is not None and len(last) < _MOST_TOGETHER:
                last.append(product)
            else:
                groups.append([product])
        changes, gone = {}, set()
        for group in groups:
            gone |= {id(node) for product in group for node in product.nodes}
            changes[id(group[0].nodes[0])] = self._product(group, matrices)
        self._graph.exchange(changes, gone)

    def _product(self, group: list[Product], matrices: PackedMatrices) -> Any:
        inputs = [group[0].x]
        for product in group:
            inputs += [_packed_name(product.weight), *([product.bias] if product.bias else [])]
        return self._node(
            "Multiply",
            inputs,
            [product.y for product in group],
            group[0].nodes[0].name,
            n_cols=group[0].n_cols,
            n_rows=[product.n_rows for product in group],
            formats=[matrices[product.weight].type_id for product in group],
            biased=[int(bool(product.bias)) for product in group],
            two_terms=int(self._fine and all(matrices[product.weight].type_name == "Q8_0" for product in group)),
        )

    # ---- gates

    def gate(self) -> None:
        """activation(x) * up."""
        changes = {}
        for node in self._graph.nodes:
            if node.op_type != "Mul":
                continue
            for mine, other in (node.input, reversed(node.input)):
                activation, x = self._activation(mine)
                if activation and x != other:
                    changes[id(node)] = self._node(
                        "Gate", [x, other], [node.output[0]], node.name, activation=activation
                    )
                    break
        self._graph.exchange(changes, set())

    def _activation(self, value: str) -> tuple[str, str]:
        """Which activation of which value this is; two empty strings for none."""
        maker = self._graph.producer(value)
        if maker is None:
            return "", ""
        if maker.op_type == "Gelu" and attribute(maker, "approximate", b"none") == b"tanh":
            return "gelu", maker.input[0]
        if maker.op_type == "Mul":
            for x, other in (maker.input, reversed(maker.input)):
                sigmoid = self._graph.producer(other)
                if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.input[0] == x:
                    return "silu", x
        return "", ""

    # ---- norms

    def normalize(self) -> None:
        """Root-mean-square norms; with the sum in front, where there is one, at whose place the node then is."""
        changes, gone = {}, set()
        for node in self._graph.nodes:
            if node.op_type not in ("SimplifiedLayerNormalization", "RMSNormalization"):
                continue
            if integer(node, "axis", -1) != -1 or len(self._graph.initializer_shape(node.input[1])) != 1:
                raise UnsupportedModel(f"node {node.name!r} is no norm over the last axis")
            epsilon = attribute(node, "epsilon", 1e-5)
            added = self._graph.producer(node.input[0])
            if (
                added is not None
                and added.op_type == "Add"
                and added.name.endswith("_residual")
                and id(added) not in gone
            ):
                inputs = [added.input[0], node.input[1], added.input[1]]
                outputs, place = [node.output[0], added.output[0]], added
                gone |= {id(node), id(added)}
            else:
                inputs, outputs, place = [node.input[0], node.input[1]], [node.output[0]], node
            changes[id(place)] = self._node("Normalize", inputs, outputs, node.name, epsilon=epsilon)
        self._graph.exchange(changes, gone)

    # ---- attention

    def attend(self) -> None:
        changes = {}
        for node in self._graph.nodes:
            if node.op_type == "GroupQueryAttention":
                changes[id(node)] = self._attention(node)
        self._graph.exchange(changes, set())

    def _attention(self, node: onnx.NodeProto) -> Any:
        inputs = [*node.input, *[""] * (9 - len(node.input))]
        match = _PAST.fullmatch(inputs[3])
        others = [
            name
            for name in ("softcap", "smooth_softmax", "rotary_interleaved", "do_quantization")
            if attribute(node, name)
        ]
        if match is None or any(inputs[9:]) or others or not all(inputs[:3]):
            raise UnsupportedModel(f"node {node.name!r} attends in a way that our operator does not know")
        layer, window = int(match[1]), integer(node, "local_window_size", -1) > 0
        self.n_layers = max(self.n_layers, layer + 1)
        if window:
            self.windowed.append(layer)
        tables = inputs[7:9] if integer(node, "do_rotary") else ["", ""]
        mask = "mask_window" if window else "mask"
        return self._node(
            "Attention",
            [*inputs[:3], *tables, "positions", "cells", mask, "pool"],
            [node.output[0]],
            node.name,
            layer=layer,
            n_heads=integer(node, "num_heads"),
            n_kv_heads=integer(node, "kv_num_heads"),
            kv_format=_KV_FORMATS[self._kv_type][0],
            scale=float(attribute(node, "scale", 0.0) or self._head_dim**-0.5),
        )

    # ---- ends

    def take_rows(self) -> None:
        """Any rows instead of those from one on."""
        from onnx import helper

        found = [node for node in self._graph.nodes if node.op_type == "Slice" and node.input[1] == "logits_from"]
        if len(found) != 1:
            raise UnsupportedModel("the graph has no node that takes the rows from logits_from on")
        (node,) = found
        # The input has the name that the output had.
        self._graph.rename(node.output[0], "rows.taken")
        made = helper.make_node("Gather", [node.input[0], "rows"], ["rows.taken"], node.name, axis=1)
        self._graph.exchange({id(node): made}, set())

    def finish(self, proto: onnx.ModelProto) -> None:
        """New inputs and outputs; nothing left that is not needed, and nothing that may not be there."""
        from onnx import TensorProto, helper

        graph = proto.graph
        kept = [value for value in graph.input if value.name == "input_ids"]
        outputs = [value for value in graph.output if not value.name.startswith("present.")]
        inputs: dict[str, tuple[int, list[str | int]]] = {
            "positions": (TensorProto.INT64, ["n_tokens"]),
            "cells": (TensorProto.INT64, ["n_tokens"]),
            "mask": (TensorProto.FLOAT16, ["n_tokens", "n_kv"]),
            **({"mask_window": (TensorProto.FLOAT16, ["n_tokens", "n_kv"])} if self.windowed else {}),
            "rows": (TensorProto.INT64, ["n_logits"]),
            "pool": (TensorProto.UINT8, ["n_layers", 2, "n_cells", "cell_bytes"]),
        }
        made = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
        packed = {name for node in self._graph.nodes if node.op_type == "Multiply" for name in node.input[1:]}
        for name in sorted(name for name in packed if name.endswith(".packed")):
            # A session takes the initializer that it is given instead, of whatever size.
            graph.initializer.append(helper.make_tensor(name, TensorProto.UINT8, [1], b"\0", raw=True))
        fresh = type(graph)()
        fresh.input.extend([*kept, *made])
        fresh.output.extend(outputs)
        for field in ("input", "output"):
            graph.ClearField(field)
        graph.MergeFrom(fresh)
        self._graph.prune()
        foreign = sorted({n.op_type for n in self._graph.nodes if n.domain != DOMAIN and n.op_type not in _ELEMENTWISE})
        if foreign:
            raise UnsupportedModel(f"the graph has {', '.join(foreign)} between our operators")
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
