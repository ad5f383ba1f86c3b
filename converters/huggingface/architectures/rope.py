"""Rotary position embeddings as ``config.json`` has them, in the old form (``rope_theta``, ``rope_scaling``) and the
new (``rope_parameters``), and as GGUF has them."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.huggingface.description import Target, Value
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.errors import UnsupportedModel

__all__ = ["Scaling", "llama3_factors", "longrope", "rope_keys", "scaling_of"]

Floats = npt.NDArray[np.float32]
_THETA = 10000.0
_BETA_FAST, _BETA_SLOW = 32.0, 1.0


@dataclass(frozen=True, slots=True)
class Scaling:
    """``kind`` as Hugging Face's rope_type; ``fields`` what comes with it."""

    kind: str
    theta: float
    fields: Fields


def scaling_of(config: Fields, layer_type: str = "full_attention") -> Scaling:
    """How positions are stretched; where both forms are there, transformers takes the old one. ``layer_type``: which of
    the ropes of a model that has several, of which the old form says only that of full attention."""
    fields, older = config.fields("rope_parameters"), config.fields("rope_scaling")
    if layer_type in fields:
        fields = fields.fields(layer_type)
    if older.content and layer_type == "full_attention":
        nested = layer_type in config.fields("rope_parameters")
        fields = Fields({**fields.content, **older.content}, older.where) if nested else older
    theta = fields.number("rope_theta", config.number("rope_theta", _THETA))
    kind = fields.text(fields.first("rope_type", "type"), "default")
    if theta <= 0:
        raise config.wrong("rope_theta", f"is {theta}, but must be above 0")
    if kind == "su" or (kind == "yarn" and "long_factor" in fields):  # what Phi called it first
        kind = "longrope"
    return Scaling(kind, theta, fields)


def rope_keys(config: Fields, scaling: Scaling, head_dim: int, knows: Container[str] = ()) -> dict[str, Value]:
    """The keys of everything but what takes tensors. ``knows``: the kinds that the architecture has tensors for, and
    ``partial`` where it may leave a part of each head as it is. Raises `UnsupportedModel` for what llama.cpp lacks."""
    rotated = int(head_dim * _partial(config, scaling))
    if rotated % 2 or not 0 < rotated <= head_dim or (rotated != head_dim and "partial" not in knows):
        raise UnsupportedModel(
            f"{config.where}: {rotated} of {head_dim} elements of a head are rotated (partial_rotary_factor), which "
            "llama.cpp's graph of this architecture does not do"
        )
    keys: dict[str, Value] = {"rope.dimension_count": rotated, "rope.freq_base": scaling.theta}
    fields = scaling.fields
    if scaling.kind == "linear":
        return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": _factor(fields)}
    if scaling.kind == "yarn":
        return keys | _yarn(config, fields)
    # dynamic: as trained within the trained context, which is all that the file promises
    if scaling.kind in ("default", "dynamic") or scaling.kind in knows:
        return keys
    raise UnsupportedModel(
        f"{config.where}: rope_type {scaling.kind!r} is none that llama.cpp's graph of this architecture does"
    )


def _partial(config: Fields, scaling: Scaling) -> float:
    return scaling.fields.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))


def _factor(fields: Fields) -> float:
    factor = fields.number("factor")
    if factor <= 0:
        raise fields.wrong("factor", f"is {factor}, but must be above 0")
    return factor


def _yarn(config: Fields, fields: Fields) -> dict[str, Value]:
    """llama.cpp multiplies the attention factor by 0.1 ln(factor) + 1 itself, and reads keys for the betas in graphs of
    other architectures alone."""
    n_ctx = _original(config, fields)
    factor = fields.number("factor", config.integer("max_position_embeddings") / n_ctx)
    if factor < 1:
        raise fields.wrong("factor", f"is {factor}, but must be at least 1")
    by_itself = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    if not fields.flag("truncate", True):
        raise UnsupportedModel(f"{config.where}: yarn without truncate is not in llama.cpp")
    fast, slow = fields.number("beta_fast", _BETA_FAST), fields.number("beta_slow", _BETA_SLOW)
    if (fast, slow) != (_BETA_FAST, _BETA_SLOW):
        raise UnsupportedModel(
            f"{config.where}: yarn with beta_fast {fast:g} and beta_slow {slow:g} is not in llama.cpp, which has "
            f"{_BETA_FAST:g} and {_BETA_SLOW:g}"
        )
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": n_ctx,
        "rope.scaling.attn_factor": _attention_factor(fields, factor) / by_itself,
    }


def _original(config: Fields, fields: Fields) -> int:
    """The context of the training before it was stretched, from where transformers takes it."""
    name = "original_max_position_embeddings"
    return (config if name in config else fields).integer(name, config.integer("max_position_embeddings"))


def _attention_factor(fields: Fields, factor: float) -> float:
    """As transformers has it."""
    if "attention_factor" in fields:
        return fields.number("attention_factor")

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    above, below = fields.number("mscale", 0.0), fields.number("mscale_all_dim", 0.0)
    return magnitude(above) / magnitude(below) if above and below else magnitude(1.0)


def llama3_factors(config: Fields, scaling: Scaling, head_dim: int) -> Target | None:
    """What llama.cpp divides each pair's frequency by, for Llama 3's kind of stretching: slow pairs by ``factor``, fast
    ones not at all, those between by something between. None for any other kind."""
    if scaling.kind != "llama3":
        return None
    fields = scaling.fields
    factor, low, high = _factor(fields), fields.number("low_freq_factor"), fields.number("high_freq_factor")
    n_ctx = _original(config, fields)
    if not 0 < low < high:
        raise fields.wrong("low_freq_factor", f"is {low}, but must be between 0 and high_freq_factor {high}")
    wavelengths = 2 * math.pi * scaling.theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    smooth = np.clip((n_ctx / wavelengths - low) / (high - low), 0, 1)
    values = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    return Target("rope_freqs.weight", (head_dim // 2,), values=values)


def longrope(
    config: Fields, scaling: Scaling, n_rotated: int, n_ctx_most: int
) -> tuple[Mapping[str, Value], list[Target]]:
    """Keys and tensors of Phi's kind of stretching: factors for each pair, one set up to the context of the training
    and one beyond. ``n_ctx_most``: the longest that the model is given."""
    if scaling.kind != "longrope":
        return {}, []
    fields, n_ctx = scaling.fields, _original(config, scaling.fields)
    factor = _factor(fields) if "factor" in fields else config.integer("max_position_embeddings") / n_ctx
    stretch = math.sqrt(1 + math.log(factor) / math.log(n_ctx)) if factor > 1 and n_ctx > 1 else 1.0
    found = {}
    for which in ("long", "short"):
        found[which] = fields.numbers(f"{which}_factor")
        if len(found[which]) != n_rotated // 2:
            raise fields.wrong(
                f"{which}_factor", f"has {len(found[which])} numbers, but {n_rotated // 2} pairs are rotated"
            )
    if n_ctx_most <= n_ctx:
        # No text is beyond it, though llama.cpp may take its own context, which it rounds up, to be.
        found["long"] = found["short"]
    targets = [
        Target(f"rope_factors_{which}.weight", (len(values),), values=np.array(values, np.float32))
        for which, values in found.items()
    ]
    keys: dict[str, Value] = {
        "rope.scaling.original_context_length": n_ctx,
        "rope.scaling.attn_factor": fields.number("attention_factor", stretch),
    }
    return keys, targets
