"""How many rows to compute at once: as many as pay and as memory has room for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgeinfer import described, memory
from edgeinfer.engines import EngineConfig
from edgeinfer.opening import completed

__all__ = ["MOST_PLACES", "places"]

MOST_PLACES = 16
"""Beyond this a processor's arithmetic is the limit: more at once would each be slower, and take memory."""
_TRIED = (MOST_PLACES, 12, 8, 6, 4, 3, 2)
_SHARE = 0.8
"""Of what is free: the rest is for a draft model, and for whoever else works here."""


def places(model: Path, config: EngineConfig, cap_bytes: int | None = None, engine: str = "auto") -> int:
    """The most rows at once, each with the whole context of ``config`` to itself, that fit beside the model; at least
    1. Raises `FormatError` for what is no model, `UnsupportedModel` for one that ``engine`` does not run."""
    file = described.read(model, engine)
    config, _ = completed(config, described.info(file))
    cap = min(cap_bytes or memory.available(), int(_SHARE * memory.available()))
    for n in _TRIED:
        if memory.plan(file, dataclasses.replace(config, n_seq_max=n), cap_bytes=cap).verdict == "fits":
            return n
    return 1
