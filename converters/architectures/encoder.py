"""What BERT and its kin have in common, read from GGUF metadata: tokens see each other, norms come after."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.converters.architectures.base import each_layer, refuse
from edgeinfer.converters.architectures.decoder import Bidirectional, Decoder, Shape
from edgeinfer.converters.architectures.rope import Rope
from edgeinfer.gguf import Dimensions, GGUFFile, dimensions
from edgeinfer.onnx.package import Hyperparameters

__all__ = ["encoder"]

_TYPES = "token_types.weight"
_ENDS = ("weight", "bias")


def encoder(file: GGUFFile, *, rotated: bool, gated: bool) -> Decoder:
    """``rotated``: positions are turned into Q and K, not added to the embeddings. ``gated``: the feed-forward part
    multiplies two products. Q, K and V may be one matrix, and any product may have a bias. Raises `UnsupportedModel`
    for what none of these does."""
    sizes = dimensions(file)
    _check_plain(file, sizes)
    fused = "blk.0.attn_qkv.weight" in file.tensors
    hyper = Hyperparameters(
        n_layers=sizes.n_layers,
        n_embd=sizes.n_embd,
        n_heads=sizes.n_heads[0],
        n_kv_heads=sizes.n_heads[0],
        head_dim=sizes.head_dim_k,
        n_ff=sizes.n_ff,
        n_vocab=sizes.n_vocab,
        n_ctx_train=sizes.n_ctx_train,
        rope_theta=file.metadata.number(f"{file.architecture}.rope.freq_base", 10000.0),
        norm_eps=file.metadata.number(f"{file.architecture}.attention.layer_norm_epsilon"),
        attention_scale=sizes.head_dim_k**-0.5,
        activation="silu" if gated else "gelu",
        causal=False,
    )
    matrices = _matrices(hyper, fused, gated)
    plain = Decoder(
        file.architecture,
        hyper,
        Rope(hyper.rope_theta, hyper.head_dim),
        _embeddings(file, hyper, rotated),
        bidirectional=Bidirectional(rotated, fused, _activation(file, gated)),
    )
    norms = {f"{name}.{end}": (hyper.n_embd,) for name in ("attn_output_norm", "layer_output_norm") for end in _ENDS}
    weights = {f"{name}.weight": shape for name, shape in matrices.items()}
    biases: dict[str, Shape] = {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
    required = {**plain.required, **each_layer(plain, {**weights, **norms})}
    return replace(plain, required=required, optional=each_layer(plain, biases))


def _embeddings(file: GGUFFile, hyper: Hyperparameters, rotated: bool) -> dict[str, Shape]:
    width = hyper.n_embd
    shapes: dict[str, Shape] = {"token_embd.weight": (hyper.n_vocab, width)}
    shapes |= {f"token_embd_norm.{end}": (width,) for end in _ENDS}
    if not rotated:
        shapes["position_embd.weight"] = (hyper.n_ctx_train, width)
    if _TYPES in file.tensors:
        n_types = file.tensors[_TYPES].n_elements // width
        shapes[_TYPES] = (n_types, width) if len(file.tensors[_TYPES].shape) > 1 else (width,)
    return shapes


def _matrices(hyper: Hyperparameters, fused: bool, gated: bool) -> dict[str, Shape]:
    width = hyper.n_embd
    names = {"attn_qkv": 3 * width} if fused else dict.fromkeys(("attn_q", "attn_k", "attn_v"), width)
    shapes: dict[str, Shape] = {name: (rows, width) for name, rows in names.items()}
    shapes |= {"attn_output": (width, width), "ffn_up": (hyper.n_ff, width), "ffn_down": (width, hyper.n_ff)}
    return shapes | ({"ffn_gate": (hyper.n_ff, width)} if gated else {})


def _activation(file: GGUFFile, gated: bool) -> str:
    """Files that do not say are of models with the exact one."""
    said = file.metadata.text(f"{file.architecture}.hidden_activation", "silu" if gated else "gelu")
    if said not in (("silu",) if gated else ("gelu", "gelu_tanh")):
        raise refuse(file, f"hidden_activation is {said!r}")
    return said


def _check_plain(file: GGUFFile, sizes: Dimensions) -> None:
    meta, name = file.metadata, file.architecture
    if meta.integer(f"{name}.expert_count", 0) or meta.integer(f"{name}.moe_every_n_layers", 0):
        raise refuse(file, "it is a mixture of experts")
    if len({*sizes.n_heads, *sizes.n_kv_heads}) != 1 or sizes.n_heads[0] * sizes.head_dim_k != sizes.n_embd:
        raise refuse(file, "its heads do not make up its width, or differ by layer")
    if meta.flag(f"{name}.attention.causal", True):
        raise refuse(file, "attention.causal is true")
    if sizes.n_swa or meta.integer(f"{name}.rope.dimension_count", sizes.head_dim_k) != sizes.head_dim_k:
        raise refuse(file, "it has a window, or rotates only a part of each head")
    kind, factor = meta.text(f"{name}.rope.scaling.type", "none"), meta.number(f"{name}.rope.scaling.factor", 1.0)
    if factor != 1.0:
        raise refuse(file, f"rope.scaling is {kind!r} by {factor:g}")
