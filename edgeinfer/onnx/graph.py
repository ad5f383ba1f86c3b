"""A package's graph, parsed without its weights and proven harmless before a runtime sees it.

Whoever wrote a package could have written any graph: other operators, weights from other files, shapes that a kernel
does not look at twice. So the graph must be one of those that our converter writes, as far as its safety goes: known
operators, no subgraphs, every weight inside a file of the package, of the size that its node takes it to have, inputs
and outputs as the manifest says. Knows no runtime; only here and below is ``onnx`` imported, which takes a while.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import FormatError, UnsupportedModel
from edgeinfer.onnx.package import Package, Variant

if TYPE_CHECKING:
    import onnx

__all__ = ["Signature", "check_signature", "expose", "expose_hidden", "read_graph", "use_long_rope"]

_MAX_BYTES = 256 << 20
_MAX_DIM = 1 << 40
_OPSETS = {"": 26, "ai.onnx": 26, "com.microsoft": 1}
_MAX_IR = 13

_NAMES = (
    "Add Cast Clip Concat Constant ConstantOfShape Cos DequantizeLinear Div Equal Erf Expand Flatten Gather Gelu Gemm "
    "Greater GreaterOrEqual Identity Less LessOrEqual MatMul Max Min Mul Neg Pad Pow QuantizeLinear RMSNormalization "
    "Range Reciprocal ReduceMax ReduceMean ReduceSum ReduceSumSquare Reshape RotaryEmbedding Shape Sigmoid "
    "SimplifiedLayerNormalization Sin Slice Softmax Split Sqrt Squeeze Sub Swish Tanh Tile Transpose Trilu Unsqueeze "
    "Where LayerNormalization"
)
_CONTRIB_NAMES = (
    "FastGelu GatherBlockQuantized Gelu GroupQueryAttention MatMulNBits MoE MultiHeadAttention QMoE QuickGelu "
    "RotaryEmbedding "
    "SimplifiedLayerNormalization SkipSimplifiedLayerNormalization"
)
_PLAIN, _CONTRIB = frozenset(_NAMES.split()), frozenset(_CONTRIB_NAMES.split())
_OPERATORS = {"": _PLAIN, "ai.onnx": _PLAIN, "com.microsoft": _CONTRIB}

# TensorProto.DataType -> bits of an element; no others occur.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}

_UINT8 = 2


def read_graph(package: Package, variant: Variant, model: str | None = None) -> onnx.ModelProto:
    """The graph ``model`` (default: the variant's first) of a package, checked. Weights are not read.

    Raises `FormatError` naming the file and the node, weight or input that is wrong, `UnsupportedModel` for an operator
    or a version that is unknown.
    """
    import onnx
    from google.protobuf.message import DecodeError

    name = model or variant.model
    path = package.path(name)
    data = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else b""
    if not data:
        raise FormatError(f"{path} is empty or larger than {_MAX_BYTES >> 20} MiB: that is no graph of ours")
    if hashlib.sha256(data).hexdigest() != variant.files[name].sha256:
        raise FormatError(f"{path} is damaged: its hash is not that in edgeinfer.json; convert again")
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise FormatError(f"{path} is no ONNX graph: {error}") from error
    check = _Check(package, variant, name, proto)
    check.versions()
    check.nodes()
    check.weights()
    check.shapes()
    return proto


def expose_hidden(proto: onnx.ModelProto, n_embd: int) -> str | None:
    """Make the hidden states of all tokens an output, float32 ``(1, n_tokens, n_embd)``; returns its name, None where
    the graph has no nodes ``rows`` and ``output_norm``.

    The graph takes the wanted rows first and norms these; afterwards it norms all and takes the wanted ones, which are
    the same.
    """
    from onnx import TensorProto, helper

    nodes = {node.name: node for node in proto.graph.node}
    rows, norm = nodes.get("rows"), nodes.get("output_norm")
    if rows is None or norm is None or not rows.input or norm.input[:1] != rows.output[:1]:
        return None
    hidden: str = norm.output[0]
    wanted: str = rows.output[0]
    for node in proto.graph.node:
        for at, name in enumerate(node.input):
            if name == hidden:
                node.input[at] = wanted
    norm.input[0], rows.input[0] = rows.input[0], hidden
    first, second = list(proto.graph.node).index(rows), list(proto.graph.node).index(norm)
    moved = helper.make_node("Identity", [], [])
    moved.CopyFrom(norm)  # nodes come in the order of their edges
    del proto.graph.node[second]
    proto.graph.node.insert(first, moved)
    proto.graph.output.append(helper.make_tensor_value_info(hidden, TensorProto.FLOAT, [1, "n_tokens", n_embd]))
    return hidden


def expose(proto: onnx.ModelProto, tensor: str, shape: list[int | str] | None) -> bool:
    """Make a float tensor inside the graph one of its outputs, of a shape that a runtime may work out itself where it
    is None; False where there is none of that name."""
    from onnx import TensorProto, helper

    if all(tensor not in node.output for node in proto.graph.node):
        return False
    proto.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape))
    return True


class _Check:
    """One graph under suspicion."""

    def __init__(self, package: Package, variant: Variant, name: str, proto: onnx.ModelProto) -> None:
        self.package, self.variant, self.name = package, variant, name
        self.where = str(package.folder / name)
        self.proto, self.graph = proto, proto.graph
        self.weight_shapes: dict[str, tuple[int, ...]] = {}
        self.weight_types: dict[str, int] = {}
        self.makers = {
            node.output[0]: node
            for node in self.graph.node
            if node.op_type in ("Cast", "Reshape", "Pad") and node.input
        }
        self.inline = {tensor.name: tensor for tensor in self.graph.initializer if tensor.data_location == 0}

    def fail(self, what: str) -> FormatError:
        return FormatError(f"{self.where}: {what}")

    def versions(self) -> None:
        if not 7 <= self.proto.ir_version <= _MAX_IR:
            raise UnsupportedModel(f"{self.where}: ONNX IR version {self.proto.ir_version} is unknown here")
        for opset in self.proto.opset_import:
            if opset.version > _OPSETS.get(opset.domain, 0):
                raise UnsupportedModel(
                    f"{self.where}: operators of {opset.domain[:80] or 'ai.onnx'!r} version {opset.version} are unknown"
                )
        if self.proto.functions or self.proto.training_info or self.graph.sparse_initializer:
            raise UnsupportedModel(f"{self.where} defines functions, training or sparse weights; no graph of ours does")

    def nodes(self) -> None:
        for node in self.graph.node:
            if node.op_type not in _OPERATORS.get(node.domain, ()):
                operator = f"{node.domain[:80]}::{node.op_type[:80]}" if node.domain else node.op_type[:80]
                raise UnsupportedModel(f"{self.where}: node {node.name[:80]!r} is of the unknown operator {operator!r}")
            for attribute in node.attribute:
                if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
                    raise UnsupportedModel(f"{self.where}: node {node.name[:80]!r} holds a graph of its own")
                if attribute.HasField("t"):
                    self.weight(attribute.t, inside=True)
                if attribute.tensors:
                    raise UnsupportedModel(f"{self.where}: node {node.name[:80]!r} holds a list of tensors")

    # ---- weights

    def weights(self) -> None:
        for tensor in self.graph.initializer:
            if tensor.name in self.weight_shapes:
                raise self.fail(f"two weights are called {tensor.name[:80]!r}")
            self.weight_shapes[tensor.name] = tuple(tensor.dims)
            self.weight_types[tensor.name] = tensor.data_type
            self.weight(tensor)

    def weight(self, tensor: onnx.TensorProto, *, inside: bool = False) -> None:
        """``inside``: in a node, where data of another file are never needed."""
        what = f"weight {tensor.name[:80]!r}"
        bits, dims = _BITS.get(tensor.data_type), tuple(tensor.dims)
        if bits is None or any(dim < 0 for dim in dims) or math.prod(dims) > _MAX_DIM:
            raise self.fail(f"{what} has a type or shape that cannot be: {tensor.data_type}, {list(dims)[:8]}")
        n_bytes = -(-math.prod(dims) * bits // 8)
        if tensor.data_location == 1:
            if inside:
                raise self.fail(f"{what} lies in another file, though it is part of a node")
            self.external(tensor, what, n_bytes)
        elif tensor.external_data:
            raise self.fail(f"{what} names a data file and holds data as well")
        elif tensor.HasField("raw_data") and len(tensor.raw_data) != n_bytes:
            raise self.fail(f"{what} has {len(tensor.raw_data)} bytes where its shape says {n_bytes}")

    def external(self, tensor: onnx.TensorProto, what: str, n_bytes: int) -> None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        unknown = set(entries) - {"location", "offset", "length", "checksum"}
        if unknown or len(entries) != len(tensor.external_data):
            raise self.fail(f"{what}: its data's description has an unknown or repeated field")
        location = entries.get("location", "")
        folder = self.name.rpartition("/")[0]
        file = f"{folder}/{location}" if folder else location
        if "/" in location or "\\" in location or file not in self.variant.files:
            raise self.fail(f"{what} lies in {location[:80]!r}, which is no file of this package's variant")
        size = self.package.path(file).stat().st_size
        numbers = [entries.get("offset", "0"), entries.get("length", str(n_bytes))]
        if not all(re.fullmatch(r"[0-9]{1,18}", number) for number in numbers):
            raise self.fail(f"{what}: offset or length of its data is no number")
        offset, length = map(int, numbers)
        if length != n_bytes:
            raise self.fail(f"{what} has {length} bytes of data where its shape says {n_bytes}")
        if offset + length > size:
            raise self.fail(f"{what} ends at byte {offset + length} of {file}, which has {size}: the file is truncated")

    # ---- shapes that kernels trust

    def shapes(self) -> None:
        for node in self.graph.node:
            attributes = {attribute.name: attribute for attribute in node.attribute}
            if node.op_type == "MatMulNBits":
                self.matmul(node, attributes)
            elif node.op_type == "GroupQueryAttention":
                self.attention(node, attributes)
            elif node.op_type == "MultiHeadAttention":
                self.heads(node, attributes)
            elif node.op_type == "GatherBlockQuantized":
                self.table(node, attributes)
            elif node.op_type in ("MoE", "QMoE"):
                self.experts(node, attributes)

    def shape(self, node: onnx.NodeProto, at: int) -> tuple[int, ...]:
        """Of a weight that a node takes as its input ``at``: as it comes, in another type, or reshaped (then as one
        dimension), and padded before that perhaps."""
        name = node.input[at] if at < len(node.input) else ""
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "Cast":
            name, maker = maker.input[0], self.makers.get(maker.input[0])
        reshaped = maker is not None and maker.op_type == "Reshape"
        if maker is not None and reshaped:
            name, maker = maker.input[0], self.makers.get(maker.input[0])
        grown = 0
        if maker is not None and maker.op_type == "Pad" and len(maker.input) > 1:
            name, pads = maker.input[0], self.numbers(maker.input[1])
            grown = sum(pads[len(pads) // 2 :]) if len(pads) == 4 and pads[:3] == [0, 0, 0] and pads[3] >= 0 else -1
        shape = self.weight_shapes.get(name)
        if shape is None or grown < 0 or (grown and len(shape) != 2):
            raise self.fail(f"input {at} of node {node.name[:80]!r} is no weight, but must be one")
        if grown:
            shape = (shape[0], shape[1] + grown)
        return (math.prod(shape),) if reshaped else shape

    def numbers(self, name: str) -> list[int]:
        """A small int64 weight that lies in the graph itself; empty for any other."""
        tensor = self.inline.get(name)
        if tensor is None or tensor.data_type != 7 or math.prod(tensor.dims) > 64:
            return []
        raw = tensor.raw_data
        packed = [int.from_bytes(raw[i : i + 8], "little", signed=True) for i in range(0, len(raw), 8)]
        return packed or list(tensor.int64_data)

    def wrong(self, node: onnx.NodeProto, at: int, wanted: str) -> FormatError:
        shape = list(self.shape(node, at))
        return self.fail(f"weight {node.input[at][:80]!r} of node {node.name[:80]!r} has shape {shape}, not {wanted}")

    def matmul(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        """Kernels pack as many blocks as the attributes say."""
        n_cols, n_rows, block = (_int(attributes, key) for key in ("K", "N", "block_size"))
        bits = _int(attributes, "bits", 4)
        if (
            bits not in (2, 4, 8)
            or block not in (16, 32, 64, 128, 256)
            or not (0 < n_cols < 1 << 30 and 0 < n_rows < 1 << 30)
        ):
            raise self.fail(f"node {node.name[:80]!r} has K {n_cols}, N {n_rows}, {bits} bits in blocks of {block}")
        n_blocks = -(-n_cols // block)
        if math.prod(self.shape(node, 1)) != n_rows * n_blocks * block * bits // 8:
            raise self.wrong(node, 1, f"[{n_rows}, {n_blocks}, {block * bits // 8}]")
        if math.prod(self.shape(node, 2)) != n_rows * n_blocks:
            raise self.wrong(node, 2, f"[{n_rows}, {n_blocks}]")
        if len(node.input) > 5 and node.input[5] and math.prod(self.shape(node, 5)) != n_rows:
            raise self.wrong(node, 5, f"[{n_rows}]")
        if len(node.input) > 3 and node.input[3]:
            self.zero_points(node, n_rows, -(-n_blocks * bits // 8))
        if len(node.input) > 4 and node.input[4]:
            raise self.fail(f"node {node.name[:80]!r} has groups; no graph of ours does")

    def zero_points(self, node: onnx.NodeProto, n_rows: int, n_bytes: int) -> None:
        """Packed as the weights are, each row by itself, and as they come: in another type kernels would take them to
        be one a number."""
        if self.weight_shapes.get(node.input[3]) != (n_rows, n_bytes):
            raise self.wrong(node, 3, f"[{n_rows}, {n_bytes}]")
        if self.weight_types[node.input[3]] != _UINT8:
            raise self.fail(f"zero points {node.input[3][:80]!r} of node {node.name[:80]!r} are not of type uint8")

    def attention(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        sizes = self.package.hyperparameters
        heads = _int(attributes, "num_heads"), _int(attributes, "kv_num_heads")
        if heads != (sizes.n_heads, sizes.n_kv_heads):
            raise self.fail(f"node {node.name[:80]!r} has {heads} heads, but edgeinfer.json says otherwise")
        if _int(attributes, "do_rotary", 0):
            for at in (7, 8):
                shape = self.shape(node, at)
                if len(shape) != 2 or shape[0] < sizes.n_ctx_train or shape[1] * 2 > sizes.head_dim:
                    raise self.wrong(node, at, f"[{sizes.n_ctx_train}, {sizes.head_dim // 2}]")

    def heads(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        """ONNX Runtime holds widths against each other; that heads divide them it takes on trust."""
        if _int(attributes, "num_heads") != self.package.hyperparameters.n_heads:
            raise self.fail(f"node {node.name[:80]!r} has other heads than edgeinfer.json says")

    def experts(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        """All experts' matrices, and scales for all their blocks. ONNX Runtime holds them against each
        other and against its inputs."""
        sizes, quantized = self.package.hyperparameters, node.op_type == "QMoE"
        block, at = _int(attributes, "block_size"), ((2, 5) if quantized else (2, 4))
        shapes = (1, 2 * sizes.n_ff, sizes.n_embd), (2, sizes.n_embd, sizes.n_ff)
        if quantized and block not in (16, 32, 64, 128, 256):
            raise self.fail(f"node {node.name[:80]!r} has blocks of {block}")
        for each, (which, n_rows, n_cols) in zip(at, shapes, strict=True):
            bits = _int(attributes, f"fc{which}_expert_weight_bits", _int(attributes, "expert_weight_bits", 4))
            shape = self.shape(node, each)
            width = n_cols * bits // 8 if quantized else n_cols
            if shape != (sizes.n_experts, n_rows, width):
                raise self.wrong(node, each, f"[{sizes.n_experts}, {n_rows}, {width}]")
            if quantized and self.shape(node, each + 1) != (shape[0], n_rows, n_cols // block):
                raise self.wrong(node, each + 1, f"[{shape[0]}, {n_rows}, {n_cols // block}]")
        if not 0 < _int(attributes, "k") <= sizes.n_experts:
            raise self.fail(f"node {node.name[:80]!r} chooses {_int(attributes, 'k')} of {sizes.n_experts} experts")
        known = {0, 1, *at, *((3, 6) if quantized else ())}
        extra = [name for i, name in enumerate(node.input) if name and i not in known]
        if extra:
            raise self.fail(f"node {node.name[:80]!r} has inputs that no graph of ours has: {extra[0][:80]!r}")

    def table(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        """ONNX Runtime holds scales and offsets against the table; the engine holds ids against the vocabulary."""
        bits, block = _int(attributes, "bits", 4), _int(attributes, "block_size")
        if bits not in (2, 4, 8) or block < 16 or self.shape(node, 0)[:1] != (self.package.hyperparameters.n_vocab,):
            n_vocab = self.package.hyperparameters.n_vocab
            raise self.wrong(node, 0, f"[{n_vocab}, …], a row for each token of the vocabulary")


def use_long_rope(proto: onnx.ModelProto) -> bool:
    """Put the tables of rotations for a long context in the place of the others, if the graph has any: of the same
    shape, so that what was checked of those holds for them. False where it has none."""
    shapes = {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in proto.graph.initializer}
    found = {name: f"rope_long.{name.rpartition('.')[2]}" for name in ("rope.cos", "rope.sin")}
    if any(name not in shapes or shapes.get(long) != shapes[name] for name, long in found.items()):
        return False
    for node in proto.graph.node:
        for at, name in enumerate(node.input):
            if name in found:
                node.input[at] = found[name]
    return True


def _int(attributes: Mapping[str, Any], name: str, default: int = 0) -> int:
    return int(attributes[name].i) if name in attributes else default


Signature = Mapping[str, tuple[str, tuple[int | None, ...]]]
"""Name -> (element type as ONNX names it, such as ``FLOAT``; shape, None where any size will do)."""


def check_signature(where: str, proto: onnx.ModelProto, inputs: Signature, outputs: Signature) -> None:
    """Raise `FormatError` unless the graph takes and gives exactly these."""
    for what, wanted, found in (("input", inputs, proto.graph.input), ("output", outputs, proto.graph.output)):
        by_name = {value.name: value for value in found}
        odd = sorted(set(by_name) ^ set(wanted))
        if odd:
            problem = "lacks" if odd[0] in wanted else "has an unknown"
            raise FormatError(f"{where}: the graph {problem} {what} {odd[0][:80]!r}")
        for name, (kind, shape) in wanted.items():
            got_kind, got_shape = _typed(by_name[name])
            fits = len(got_shape) == len(shape) and all(
                want is None or got == want for got, want in zip(got_shape, shape, strict=True)
            )
            if got_kind != kind or not fits:
                raise FormatError(
                    f"{where}: {what} {name!r} is {got_kind} {_shown(got_shape)}, not {kind} {_shown(shape)}"
                )


def _typed(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | None, ...]]:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return TensorProto.DataType.Name(tensor.elem_type), shape


def _shown(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
