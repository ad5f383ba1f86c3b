"""Cutting slices where an engine's rounding does not notice. Knows no engine."""

from __future__ import annotations

import itertools

from edgeinfer.engines.base import Slice

__all__ = ["pieces"]


def pieces(part: Slice, tile: int) -> list[Slice]:
    """A slice cut so that none of its tokens is rounded otherwise than if it had come in other slices, by an engine
    whose rounding changes at multiples of ``tile``."""
    end = part.n_past + len(part.token_ids)
    first, last = min(-(-part.n_past // tile) * tile, end), end // tile * tile
    cuts = sorted({part.n_past, first, max(first, last), end})
    found = []
    for begin, stop in itertools.pairwise(cuts):
        n_logits = max(0, stop - max(begin, end - part.n_logits))
        ids = part.token_ids[begin - part.n_past : stop - part.n_past]
        found.append(Slice(part.seq, ids, begin, n_logits))
    return found
