"""What all architectures here have in common, read from GGUF metadata: sizes, rope, and the tensors of each layer."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from edgeinfer.converters.architectures.decoder import Decoder, Shape
from edgeinfer.converters.architectures.rope import Rope, Yarn
from edgeinfer.errors import UnsupportedModel
from edgeinfer.gguf import Dimensions, GGUFFile, dimensions
from edgeinfer.onnx.package import Hyperparameters

__all__ = ["base", "each_layer", "refuse", "without"]

_SPECIAL = (
    "expert_count",
    "nextn_predict_layers",
    "logit_scale",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "attention.clamp_kqv",
)
"""What changes a graph in ways that only some architectures know."""


def base(file: GGUFFile, knows: Container[str] = ()) -> Decoder:
    """The plain decoder: no biases, no norms but two a layer, one rope for all layers. Architectures change the rest
    with `dataclasses.replace`; ``knows``: keys that they look at themselves. Raises `UnsupportedModel` for what they do
    not do."""
    sizes = dimensions(file)
    _check_plain(file, sizes, knows)
    hyper = Hyperparameters(
        n_layers=sizes.n_layers,
        n_embd=sizes.n_embd,
        n_heads=sizes.n_heads[0],
        n_kv_heads=sizes.n_kv_heads[0],
        head_dim=sizes.head_dim_k,
        n_ff=sizes.n_ff,
        n_vocab=sizes.n_vocab,
        n_ctx_train=sizes.n_ctx_train,
        rope_theta=file.metadata.number(f"{file.architecture}.rope.freq_base", 10000.0),
        norm_eps=file.metadata.number(f"{file.architecture}.attention.layer_norm_rms_epsilon"),
        attention_scale=sizes.head_dim_k**-0.5,
        tied_embeddings="output.weight" not in file.tensors,
    )
    required = _matrices(hyper)
    n_rotated = file.metadata.integer(f"{file.architecture}.rope.dimension_count", hyper.head_dim)
    head = {"output.weight": (hyper.n_vocab, hyper.n_embd)}
    rope = _rope(file, hyper, n_rotated)
    return Decoder(file.architecture, hyper, rope, required, head)


def each_layer(decoder: Decoder, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """``attn_q.bias`` of every layer under its whole name."""
    layers = range(decoder.sizes.n_layers)
    return {f"blk.{layer}.{name}": shape for layer in layers for name, shape in shapes.items()}


def refuse(file: GGUFFile, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"{file.path}: {what}, which the ONNX form of {file.architecture} models does not have")


def _matrices(sizes: Hyperparameters) -> dict[str, Shape]:
    width, q, kv = sizes.n_embd, sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim
    shapes: dict[str, Shape] = {"token_embd.weight": (sizes.n_vocab, width), "output_norm.weight": (width,)}
    for layer in range(sizes.n_layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (width,),
            f"blk.{layer}.attn_q.weight": (q, width),
            f"blk.{layer}.attn_k.weight": (kv, width),
            f"blk.{layer}.attn_v.weight": (kv, width),
            f"blk.{layer}.attn_output.weight": (width, q),
            f"blk.{layer}.ffn_norm.weight": (width,),
            f"blk.{layer}.ffn_gate.weight": (sizes.n_ff, width),
            f"blk.{layer}.ffn_up.weight": (sizes.n_ff, width),
            f"blk.{layer}.ffn_down.weight": (width, sizes.n_ff),
        }
    return shapes


def without(shapes: Mapping[str, Shape], *names: str) -> dict[str, Shape]:
    """The tensors less those of every layer that have one of these names behind ``blk.N.``."""
    return {name: shape for name, shape in shapes.items() if name.split(".", 2)[-1] not in names}


def _check_plain(file: GGUFFile, sizes: Dimensions, knows: Container[str]) -> None:
    meta, name = file.metadata, file.architecture
    for key in _SPECIAL:
        if key not in knows and meta.number(f"{name}.{key}", 0.0):
            raise refuse(file, f"{key} is {meta.number(f'{name}.{key}'):g}")
    if len({*zip(sizes.n_heads, sizes.n_kv_heads, strict=True)}) != 1 or not sizes.n_heads[0]:
        raise refuse(file, "its layers differ in their numbers of heads")
    if sizes.head_dim_k != sizes.head_dim_v:
        raise refuse(file, f"keys have {sizes.head_dim_k} elements a head and values {sizes.head_dim_v}")
    n_rotated = meta.integer(f"{name}.rope.dimension_count", sizes.head_dim_k)
    if n_rotated != sizes.head_dim_k and (not n_rotated or "rope.dimension_count" not in knows):
        raise refuse(file, f"only {n_rotated} of the {sizes.head_dim_k} elements of each head are rotated")


def _rope(file: GGUFFile, sizes: Hyperparameters, n_rotated: int) -> Rope:
    meta, scaling = file.metadata, f"{file.architecture}.rope.scaling"
    kind = meta.text(f"{scaling}.type", "none")
    factor = meta.number(f"{scaling}.factor", 1.0)
    if kind == "none":
        # llama.cpp takes a factor without a type for linear scaling, as old files have it.
        kind, factor = (
            "linear",
            meta.number(f"{scaling}.factor", meta.number(f"{file.architecture}.rope.scale_linear", 1.0)),
        )
    if kind not in ("linear", "yarn") or factor <= 0:
        raise refuse(file, f"rope.scaling is {kind!r} by {factor:g}")
    rope = Rope(sizes.rope_theta, n_rotated, factor)
    if kind == "linear" or factor == 1.0:
        return rope
    n_ctx = meta.integer(f"{scaling}.original_context_length", sizes.n_ctx_train)
    attention = meta.number(f"{scaling}.attn_factor", 1.0)
    fast, slow = (meta.number(f"{scaling}.yarn_beta_{which}", beta) for which, beta in (("fast", 32.0), ("slow", 1.0)))
    return replace(rope, yarn=Yarn(n_ctx, fast, slow, attention))
