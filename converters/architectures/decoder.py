"""A decoder-only transformer as data: what a graph of it needs to know, and which tensors it must have. Knows neither
files of tensors nor ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgeinfer.converters.architectures.rope import Rope
from edgeinfer.converters.sources import SourceTensor, TensorSource
from edgeinfer.errors import FormatError
from edgeinfer.onnx.package import Hyperparameters

__all__ = ["Bidirectional", "Decoder", "Shape", "check_tensors", "with_factors"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bidirectional:
    """What sets an encoder apart, whose tokens see each other and whose norms come after: ``rotated`` positions, or
    embedded ones; whether Q, K and V are one matrix, ``fused``; ``activation``: gelu, gelu_tanh, or silu, which is
    gated."""

    rotated: bool
    fused: bool
    activation: str


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model of the family norm - attention - norm - gated feed-forward.

    ``required`` and ``optional``: shapes by GGUF name, rows first. ``ignored`` may be there and mean nothing to a
    graph. ``rope_factors`` is the tensor with `Rope.factors`; ``rope_local`` is for windowed layers.
    ``interleaved_rope``: rows of Q and K lie in pairs (2i, 2i + 1) that are rotated together, instead of (i, i + half).
    ``qk_norm``: each head of Q and K has its norm; ``post_norms``: norms after attention and feed-forward too.
    ``bidirectional``: of an encoder, which is described by the same sizes and tensors.
    """

    architecture: str
    sizes: Hyperparameters
    rope: Rope
    required: Mapping[str, Shape]
    optional: Mapping[str, Shape] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    rope_factors: str | None = None
    rope_local: Rope | None = None
    interleaved_rope: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    bidirectional: Bidirectional | None = None


def with_factors(decoder: Decoder, source: TensorSource) -> Decoder:
    """The decoder with what its rope takes from a tensor, and its sizes with the angles of a rope that is not plain."""
    rope = decoder.rope
    if decoder.rope_factors is not None:
        factors = source.rows(decoder.rope_factors, 0, 1).view("<f4")[0]
        rope = replace(rope, factors=tuple(float(factor) for factor in factors))
    if rope.plain:
        return decoder
    sizes = replace(decoder.sizes, rope_frequencies=tuple(rope.angles().tolist()), rope_magnitude=rope.magnitude)
    return replace(decoder, rope=rope, sizes=sizes)


def check_tensors(decoder: Decoder, tensors: Mapping[str, SourceTensor], label: str) -> None:
    """Raises one `FormatError` that names every tensor that is missing, unexpected, or of the wrong shape."""
    known = {**decoder.required, **decoder.optional}
    missing = sorted(decoder.required.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - known.keys() - decoder.ignored)
    wrong = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in sorted(known.items())
        if name in tensors and tensors[name].shape != shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of the wrong shape (rows first)": wrong}
    said = [f"{what}: {', '.join(names)}" for what, names in found.items() if names]
    if said:
        raise FormatError(f"{label} does not have the tensors of a {decoder.architecture} model; {'; '.join(said)}")
