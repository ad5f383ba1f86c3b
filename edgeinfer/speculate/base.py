"""What a drafter is: it guesses what comes next, and says how sure it is. A guess is never an answer: whatever it
proposes, the target's own choice at each position is what counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Draft", "Drafter", "Guess", "SteppedDrafter", "TokenIds", "Want"]

TokenIds = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

Guess = Callable[[npt.NDArray[np.integer], Floats, int], tuple[int, float]]
"""How a request would choose: from candidate ids and their logits, both best first, at ``ahead`` tokens from now ->
(position in the list, how likely that is)."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next. ``token_ids``: int32 ``(k,)``; ``chances``: float32 ``(k,)``, the drafter's own
    estimate that each is right if all before it are."""

    token_ids: TokenIds
    chances: Floats


@dataclass(frozen=True, slots=True)
class Want:
    """A request that could use a draft. ``key`` names it as long as it runs; ``tokens`` are prompt and answer so far;
    at most ``n_max`` more are of use. ``n_left``: how many the answer may still have. ``guess`` chooses as its sampler
    would. ``trim`` says how many leading tokens of a draft its grammar admits."""

    key: int
    tokens: TokenIds
    n_max: int
    n_left: int
    guess: Guess
    trim: Callable[[Sequence[int]], int] = len


class Drafter(Protocol):
    """Guesses from what it knows, at no cost worth counting. Called from the engine's thread only."""

    def propose(self, key: int, tokens: TokenIds, k: int) -> Draft:
        """Up to ``k`` tokens that may follow. The tokens of a ``key`` only ever grow. Changes nothing that a later
        proposal depends on but how far it has read."""
        ...

    def end(self, key: int, tokens: TokenIds) -> None:
        """The request has ended with these tokens; they may serve others."""
        ...

    def forget(self) -> None:
        """Drop what ended requests have left."""
        ...


class SteppedDrafter(Drafter, Protocol):
    """A drafter that pays for each token: asked for one at a time, for several requests together, so that whoever
    counts the cost can stop at any."""

    def behind(self, key: int, tokens: TokenIds) -> int:
        """How many tokens it must read to guess what follows ``tokens``: at least 1, the last one."""
        ...

    def follow(self, key: int, tokens: TokenIds, n_max: int) -> None:
        """Read up to ``n_max`` of them, all but the last one. Raises `ForwardCancelled`, `EngineError`."""
        ...

    def guess(self, wants: Sequence[tuple[Want, TokenIds]]) -> list[tuple[int, float] | None]:
        """For each request and the draft that it has so far, one more token and its chance; None where it has no
        guess. One forward pass for all. Raises as `follow`."""
        ...

    def interrupt(self, on: bool) -> None:
        """As `Engine.interrupt`."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...
