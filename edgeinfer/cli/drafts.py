"""What is known about drafts for a model, as plain data and in words: for `doctor`, `models show` and `tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeinfer.catalog import Card
    from edgeinfer.core import ModelInfo
    from edgeinfer.speculate import CostCurve

__all__ = ["about", "costs_in_words", "curve_facts", "partner_facts", "partner_in_words"]

Facts = dict[str, Any]
_SHOWN = (2, 4, 8, 16)


def about(card: Card | None, info: ModelInfo) -> Facts:
    """``draft``: the catalogue's partner of this model; ``draft_here``: whether it is on this machine; ``costs``: what
    was measured of the model's own passes here, under each choice of threads, kernels and KV cache."""
    from edgeinfer import drafting

    costs = [{"with": words, **curve_facts(curve)} for words, curve in drafting.remembered(info).items()]
    return {**partner_facts(card), "costs": costs}


def partner_facts(card: Card | None) -> Facts:
    """The first two of these."""
    from edgeinfer import drafting

    name, local = drafting.partner(card)
    return {"draft": name, "draft_here": local is not None}


def curve_facts(curve: CostCurve) -> Facts:
    """``v[d][n]``: a pass of n tokens after ``depths[d]`` others, in passes of one token."""
    return {"depths": list(curve.depths), "v": [curve.growth(depth) for depth in curve.depths]}


def partner_in_words(facts: Facts) -> str:
    """One line about the draft model."""
    name = facts["draft"]
    if name is None:
        return "none recommended"
    return f"{name} (here)" if facts["draft_here"] else f"{name} (not here; get it with: edgeinfer models pull {name})"


def costs_in_words(facts: Facts) -> list[str]:
    """A line for each set of costs."""
    lines = []
    for entry in facts["costs"]:
        shown = ", ".join(f"v({n}) {entry['v'][0][n]:.2f}" for n in _SHOWN)
        lines.append(f"{shown} after {entry['depths'][0]} tokens; {entry['with']}")
    return lines
