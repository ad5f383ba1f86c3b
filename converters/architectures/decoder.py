"""A decoder-only transformer as data: what a graph of it needs to know, and which tensors it must have. Knows neither
files of tensors nor ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from edgeinfer.converters.architectures.rope import Rope
from edgeinfer.converters.sources import Shaped, TensorSource, View, check_shapes
from edgeinfer.onnx.package import Hyperparameters

__all__ = ["Bidirectional", "Decoder", "Experts", "HeadSpace", "LongRope", "Shape", "with_factors"]

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
class Experts:
    """Feed-forward parts of which a router chooses some for each token: softmax over the chosen ones' logits weighs
    their outputs. ``n_ff``: the width of one."""

    n: int
    n_used: int
    n_ff: int


@dataclass(frozen=True, slots=True)
class LongRope:
    """Phi's way to a longer context: other factors where it is longer than ``n_ctx_short``. ``factors`` is the tensor
    with them, which `with_factors` puts into ``rope``."""

    n_ctx_short: int
    factors: str
    rope: Rope


@dataclass(frozen=True, slots=True)
class HeadSpace:
    """How a head's elements lie in graphs: the two halves that are rotated together, each in room for ``half_room``
    elements, then what is not rotated; zeros fill the rest of ``room``. Kernels of attention take no other sizes than
    multiples of 16 elements and 8 pairs."""

    dim: int
    half: int
    half_room: int
    room: int

    @classmethod
    def of(cls, dim: int, n_rotated: int) -> HeadSpace:
        half = n_rotated // 2
        if dim % 16 == 0 and half % 8 == 0:
            return cls(dim, half, half, dim)
        half_room = half + -half % 8
        least = 2 * half_room + dim - n_rotated
        return cls(dim, half, half_room, least + -least % 16)

    @property
    def padded(self) -> bool:
        return self.room != self.dim or self.half_room != self.half


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model of the family norm - attention - norm - gated feed-forward.

    ``required`` and ``optional``: shapes by GGUF name, rows first. ``ignored`` may be there and mean nothing to a
    graph. ``views``: matrices that are parts of those tensors, which the graph has instead of these. ``rope_factors``
    is the tensor with `Rope.factors`; ``rope_local`` is for windowed layers.
    ``interleaved_rope``: rows of Q and K lie in pairs (2i, 2i + 1) that are rotated together, instead of (i, i + half).
    ``qk_norm``: Q and K have a norm, each head by itself or all in one; ``pre_norms``, ``post_norms``: norms before and
    after attention and feed-forward. What these add is multiplied by ``residual_scale``, logits by ``logit_scale``.
    ``attention_cap``, ``logit_cap``: scores and logits x become cap * tanh(x / cap).
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
    rope_long: LongRope | None = None
    interleaved_rope: bool = False
    qk_norm: Literal["none", "heads", "whole"] = "none"
    pre_norms: bool = True
    post_norms: bool = False
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    attention_cap: float | None = None
    logit_cap: float | None = None
    experts: Experts | None = None
    bidirectional: Bidirectional | None = None
    views: Mapping[str, View] = field(default_factory=dict)

    @property
    def space(self) -> HeadSpace:
        return HeadSpace.of(self.sizes.head_dim, self.rope.head_dim)

    def check(self, tensors: Mapping[str, Shaped], label: str) -> None:
        """Raise one `FormatError` that names every tensor that is missing, unexpected, or of another shape."""
        what = f"{label} does not have the tensors of a {self.architecture} model"
        check_shapes(tensors, self.required, what, self.ignored, self.optional)

    def stored_sizes(self) -> Hyperparameters:
        """As a package has them: heads are as wide as they are kept, and frequencies are given where ``rope_theta``
        does not say them all."""
        if self.bidirectional is not None:
            return self.sizes
        space, rope, long = self.space, self.rope, self.rope_long
        experts = self.experts or Experts(0, 0, 0)
        sizes = replace(
            self.sizes,
            head_dim=space.room,
            attention_cap=self.attention_cap,
            logit_cap=self.logit_cap,
            n_experts=experts.n,
            n_experts_used=experts.n_used,
        )
        if rope.plain and not space.padded and rope.head_dim == space.dim and long is None:
            return sizes
        made = replace(sizes, rope_frequencies=_frequencies(rope, space), rope_magnitude=rope.magnitude)
        if long is None:
            return made
        frequencies = _frequencies(long.rope, space)
        return replace(made, rope_frequencies_long=frequencies, n_ctx_short=long.n_ctx_short)


def with_factors(decoder: Decoder, source: TensorSource) -> Decoder:
    """The decoder with what its ropes take from tensors."""

    def factored(rope: Rope, name: str) -> Rope:
        factors = source.rows(name, 0, 1).view("<f4")[0]
        return replace(rope, factors=tuple(float(factor) for factor in factors))

    if decoder.rope_factors is not None:
        decoder = replace(decoder, rope=factored(decoder.rope, decoder.rope_factors))
    long = decoder.rope_long
    if long is None:
        return decoder
    return replace(decoder, rope_long=replace(long, rope=factored(long.rope, long.factors)))


def _frequencies(rope: Rope, space: HeadSpace) -> tuple[float, ...]:
    """Radians a position of each pair that there is room for."""
    angles = rope.angles().tolist()
    return (*angles, *[0.0] * (space.half_room - len(angles)))
