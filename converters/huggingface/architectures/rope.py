"""Rotary position embeddings as ``config.json`` has them, in the old form (``rope_theta``, ``rope_scaling``) and the
new (``rope_parameters``), and as GGUF has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.huggingface.description import Target, Value
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.errors import UnsupportedModel

__all__ = ["Scaling", "llama3_factors", "longrope", "rope_keys", "scaling_of"]

Floats = npt.NDArray[np.float32]
_THETA = 10000.0
_ALIASES = {"su": "longrope"}


@dataclass(frozen=True, slots=True)
class Scaling:
    """``kind`` as Hugging Face's rope_type; ``fields`` what comes with it."""

    kind: str
    theta: float
    fields: Fields


def scaling_of(config: Fields, layer_type: str = "full_attention") -> Scaling:
    """How positions are stretched. ``layer_type``: which of the ropes of a model that has several."""
    fields = config.fields("rope_parameters")
    if layer_type in fields:
        fields = fields.fields(layer_type)
    theta = fields.number("rope_theta", config.number("rope_theta", _THETA))
    if "rope_type" not in fields and "type" not in fields:
        fields = config.fields("rope_scaling")
    kind = fields.text(fields.first("rope_type", "type"), "default")
    if theta <= 0:
        raise config.wrong("rope_theta", f"is {theta}, but must be above 0")
    return Scaling(_ALIASES.get(kind, kind), theta, fields)


def rope_keys(config: Fields, scaling: Scaling, head_dim: int) -> dict[str, Value]:
    """The keys of everything but what takes tensors. Raises `UnsupportedModel` for a kind that llama.cpp has not."""
    rotated = int(head_dim * _partial(config, scaling))
    if rotated % 2 or not 0 < rotated <= head_dim:
        raise UnsupportedModel(
            f"{config.where}: {rotated} of {head_dim} elements of a head are rotated; llama.cpp cannot"
        )
    keys: dict[str, Value] = {"rope.dimension_count": rotated, "rope.freq_base": scaling.theta}
    fields = scaling.fields
    if scaling.kind == "linear":
        return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": _factor(fields)}
    if scaling.kind == "yarn":
        return keys | _yarn(config, fields)
    # dynamic: as trained within the trained context, which is all that the file promises
    if scaling.kind in ("default", "dynamic", "llama3", "longrope"):
        return keys
    raise UnsupportedModel(f"{config.where}: rope_type {scaling.kind!r} is not one of llama.cpp's")


def _partial(config: Fields, scaling: Scaling) -> float:
    return scaling.fields.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))


def _factor(fields: Fields) -> float:
    factor = fields.number("factor")
    if factor <= 0:
        raise fields.wrong("factor", f"is {factor}, but must be above 0")
    return factor


def _yarn(config: Fields, fields: Fields) -> dict[str, Value]:
    """llama.cpp multiplies the attention factor by 0.1 ln(factor) + 1 itself."""
    n_ctx = fields.integer("original_max_position_embeddings", config.integer("max_position_embeddings"))
    factor = fields.number("factor", config.integer("max_position_embeddings") / n_ctx)
    if factor < 1:
        raise fields.wrong("factor", f"is {factor}, but must be at least 1")
    by_itself = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    if not fields.flag("truncate", True):
        raise UnsupportedModel(f"{config.where}: yarn without truncate is not in llama.cpp")
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": n_ctx,
        "rope.scaling.attn_factor": _attention_factor(fields, factor) / by_itself,
        "rope.scaling.yarn_beta_fast": fields.number("beta_fast", 32.0),
        "rope.scaling.yarn_beta_slow": fields.number("beta_slow", 1.0),
    }


def _attention_factor(fields: Fields, factor: float) -> float:
    """As transformers has it."""
    if "attention_factor" in fields:
        return fields.number("attention_factor")

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    above, below = fields.number("mscale", 0.0), fields.number("mscale_all_dim", 0.0)
    return magnitude(above) / magnitude(below) if above and below else magnitude(1.0)


def llama3_factors(scaling: Scaling, head_dim: int) -> Target | None:
    """What llama.cpp divides each pair's frequency by, for Llama 3's kind of stretching: slow pairs by ``factor``, fast
    ones not at all, those between by something between. None for any other kind."""
    if scaling.kind != "llama3":
        return None
    fields = scaling.fields
    factor, low, high = _factor(fields), fields.number("low_freq_factor"), fields.number("high_freq_factor")
    n_ctx = fields.integer("original_max_position_embeddings", 8192)
    if not 0 < low < high:
        raise fields.wrong("low_freq_factor", f"is {low}, but must be between 0 and high_freq_factor {high}")
    wavelengths = 2 * math.pi * scaling.theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    smooth = np.clip((n_ctx / wavelengths - low) / (high - low), 0, 1)
    values = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    return Target("rope_freqs.weight", (head_dim // 2,), values=values)


def longrope(config: Fields, scaling: Scaling, n_rotated: int) -> tuple[Mapping[str, Value], list[Target]]:
    """Keys and tensors of Phi's kind of stretching: factors for each pair, one set up to the context of the training
    and one beyond."""
    if scaling.kind != "longrope":
        return {}, []
    fields, n_full = scaling.fields, config.integer("max_position_embeddings")
    n_ctx = fields.integer(
        "original_max_position_embeddings", config.integer("original_max_position_embeddings", n_full)
    )
    factor = (
        n_full / n_ctx if "original_max_position_embeddings" in fields or "factor" not in fields else _factor(fields)
    )
    stretch = math.sqrt(1 + math.log(factor) / math.log(n_ctx)) if factor > 1 and n_ctx > 1 else 1.0
    targets = []
    for which in ("long", "short"):
        values = fields.numbers(f"{which}_factor")
        if len(values) != n_rotated // 2:
            raise fields.wrong(f"{which}_factor", f"has {len(values)} numbers, but {n_rotated // 2} pairs are rotated")
        name = f"rope_factors_{which}.weight"
        targets.append(Target(name, (len(values),), values=np.array(values, np.float32)))
    keys: dict[str, Value] = {
        "rope.scaling.original_context_length": n_ctx,
        "rope.scaling.attn_factor": fields.number("attention_factor", stretch),
    }
    return keys, targets
