"""How many drafted tokens are worth checking, in one currency: tokens.

A millisecond spent on a draft must bring what it would bring without one, or more if drafts have been doing better than
that. With ``rate`` the tokens that a millisecond brings, a drafted token is worth the chance that it and all before it
are right, and costs ``rate`` times what the pass grows by: the rule of Leviathan et al. (2023,
https://arxiv.org/abs/2211.17192) for one fixed length, turned into a choice at each token (fractional programming after
Dinkelbach, 1967: the best long-run ratio of tokens to time is found by maximising tokens - rate * time)."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.speculate.costs import Price

__all__ = ["Economy", "best_length", "outlook", "share"]

_MOST_AHEAD = 12  # tokens of an outlook: a longer one only repeats the same sum


class Economy:
    """The prices of one step. ``price``: the target's pass by rows; ``n_rows``: rows that it has without drafts;
    ``n_decoding``: how many of them bring a token; ``gain``: what drafts have been winning; ``caution``: what
    drafted steps have cost over what they were expected to.

    Rows of prompts beside make a step long, but do not make drafts cheap: what a draft saves is steps of those who
    decode."""

    def __init__(self, price: Price, n_rows: int, n_decoding: int, *, gain: float = 1.0, caution: float = 1.0) -> None:
        self._price, self._n_rows = price, n_rows
        self.rate = max(gain, 1.0) * n_decoding / price(n_decoding)
        self._caution = caution

    def tokens(self, ms: float) -> float:
        """What so many milliseconds of drafting must bring."""
        return self.rate * self._caution * ms

    def growth(self, n_before: int, n_more: int) -> float:
        """The same for checking ``n_more`` drafted tokens on top of ``n_before``."""
        first = self._n_rows + n_before
        return self.tokens(self._price(first + n_more) - self._price(first))


def best_length(survival: Sequence[float], economy: Economy, n_before: int = 0) -> tuple[int, float]:
    """(how many leading tokens to check, their net worth). ``survival[i]``: the chance that token i and all before it
    are right."""
    best, length, worth = 0.0, 0, 0.0
    for i, chance in enumerate(survival, 1):
        worth += chance
        net = worth - economy.growth(n_before, i)
        if net > best:
            best, length = net, i
    return length, best


def outlook(
    survival: float, chance: float, draft_ms: float, economy: Economy, n_before: int, n_max: int
) -> tuple[float, float]:
    """(net worth, tokens) of drafting on from here as far as it pays, if each further token is right with ``chance``
    and costs ``draft_ms``; ``survival`` is that of what is drafted already. Looks past steps of the curve."""
    best = tokens = worth = 0.0
    for i in range(1, min(n_max, _MOST_AHEAD) + 1):
        survival *= chance
        worth += survival
        net = worth - economy.tokens(i * draft_ms) - economy.growth(n_before, i)
        if net > best:
            best, tokens = net, worth
    return best, tokens


def share(survivals: Sequence[Sequence[float]], economy: Economy, room: int) -> list[int]:
    """How many leading tokens of each draft one pass should check: they compete for ``room`` rows by their chances,
    which fall along each draft."""
    entries = [(chance, i) for i, chances in enumerate(survivals) for chance in chances]
    entries.sort(key=lambda entry: -entry[0])
    length, _ = best_length([chance for chance, _ in entries[:room]], economy)
    taken = [0] * len(survivals)
    for _, i in entries[:length]:
        taken[i] += 1
    return taken
