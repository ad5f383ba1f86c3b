"""What drafts have won and what they have cost: of each request, and of the last steps.

Tokens are the currency of a request's account: it may lose a few to drafts, and what drafts win it may spend again.
Time is kept by the cost curves, and by the clock where that says more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeinfer.speculate.costs import ROWS, Price

__all__ = ["Checked", "Ledger", "Step"]

N_ANSWER = 160  # tokens that an answer without a limit is taken to have left
_MAY_LOSE, _TRUST = 0.015, 10.0  # of an answer's tokens; times so much more for each gain of 1.0
_LEARN = 0.12  # weight of the newest round in running means


@dataclass(slots=True)
class Checked:
    """What became of a request's part of a step: ``n_right`` of its ``n_drafted`` tokens were the target's own choice;
    ``next_id`` is what it chose after them (-1: the answer ended there)."""

    key: int
    n_drafted: int
    n_right: int
    next_id: int


@dataclass(slots=True)
class Step:
    """One step's time. ``price``: the target's passes at its depth; ``draft_ms``: what drafting took, of which
    ``guess_ms`` and ``read_ms`` are what the draft model's guesses and reading should have taken; ``n_rows`` were in
    the target's pass, which took ``pass_ms``, ``n_reading`` of them prompts'."""

    price: Price
    draft_ms: float = 0.0
    guess_ms: float = 0.0
    read_ms: float = 0.0
    n_rows: int = 0
    n_reading: int = 0
    pass_ms: float = 0.0


@dataclass(slots=True)
class _Account:
    tokens: float = 0.0
    """Won by drafts, less what they cost in tokens."""
    n_tokens: int = 0
    plain_ms: float = 0.0
    spent_ms: float = 0.0


class Ledger:
    """``token_ms``: what one token costs plainly, for the time before anything is known."""

    def __init__(self, token_ms: float) -> None:
        self._token_ms = token_ms
        self._accounts: dict[int, _Account] = {}
        # Of the last steps: what their tokens would cost plainly, and what they cost.
        self._worth_ms = self._paid_ms = 0.0
        # Log of milliseconds spent over expected, of steps with and without drafts.
        self._drift = {True: 0.0, False: 0.0}

    @property
    def gain(self) -> float:
        """What the tokens of the last steps would have cost without drafts, over what they cost."""
        return (self._worth_ms + self._token_ms) / (self._paid_ms + self._token_ms)

    @property
    def caution(self) -> float:
        """What steps with drafts have cost over what they should have, next to steps without."""
        return math.exp(min(max(self._drift[True] - self._drift[False], -0.2), 0.4))

    def gain_of(self, key: int) -> float:
        """How many times faster the request's answer came than it would have without drafts, as far as the cost curves
        tell; 1.0 where there is nothing to tell."""
        account = self._accounts.get(key)
        return account.plain_ms / account.spent_ms if account and account.spent_ms > 0 else 1.0

    def credit(self, key: int, n_left: int) -> float:
        """Tokens that this request, which has ``n_left`` to come, may still lose to drafts: a couple of hundredths of
        its answer, what they have won it, and more where drafts have been doing well. So no request loses much, however
        sure of themselves its drafters are."""
        account = self._of(key)
        n_answer = min(account.n_tokens + n_left, N_ANSWER)
        return (0.5 + _MAY_LOSE * n_answer) * (1 + _TRUST * max(0.0, self.gain - 1)) + account.tokens

    def lend(self, key: int, tokens: float) -> None:
        """Let a request lose so many more."""
        self._of(key).tokens += tokens

    def close(self, key: int) -> None:
        """The request has ended."""
        self._accounts.pop(key, None)

    def book(self, outcomes: Sequence[Checked], step: Step) -> None:
        """What became of a step with at least one request that takes drafts."""
        n_drafted = sum(outcome.n_drafted for outcome in outcomes)
        plain_ms, expected_ms = step.price(step.n_rows - n_drafted), step.price(step.n_rows)
        self._charge(outcomes, step, n_drafted, plain_ms, expected_ms)
        if not step.n_reading and step.n_rows <= 2 * ROWS[-1]:  # a prompt beside would be read without drafts too
            self._observe(outcomes, step, n_drafted > 0, plain_ms, expected_ms + step.guess_ms + step.read_ms)

    def _charge(
        self, outcomes: Sequence[Checked], step: Step, n_drafted: int, plain_ms: float, expected_ms: float
    ) -> None:
        """Each request's gains, and its share of what drafting for all of them cost: by the curves, and by the clock
        where that says more or less. Reading is an investment, weighed when it was made."""
        slow = step.pass_ms / expected_ms / math.exp(self._drift[False])
        expected_ms = step.guess_ms + expected_ms * min(max(slow, 0.8), 1.6 if n_drafted else 1.0)
        decode_ms = step.price(step.n_rows - n_drafted - step.n_reading)
        cost = max(0.0, expected_ms - plain_ms) * len(outcomes) / decode_ms
        for outcome in outcomes:
            account = self._of(outcome.key)
            part = outcome.n_drafted / n_drafted if n_drafted else 1 / len(outcomes)
            account.tokens += outcome.n_right - cost * part
            account.n_tokens += outcome.n_right + 1

    def _observe(
        self, outcomes: Sequence[Checked], step: Step, drafted: bool, plain_ms: float, expected_ms: float
    ) -> None:
        """Learn from the step for the next ones."""
        drift = min(max(math.log((step.pass_ms + step.draft_ms) / expected_ms), -1.0), 1.0)
        self._drift[drafted] += _LEARN * (drift - self._drift[drafted])
        n_tokens = sum(outcome.n_right + 1 for outcome in outcomes)
        worth_ms = n_tokens / len(outcomes) * plain_ms
        self._worth_ms += worth_ms - _LEARN * self._worth_ms
        self._paid_ms += expected_ms - _LEARN * self._paid_ms
        for outcome in outcomes:
            account = self._of(outcome.key)
            account.plain_ms += (outcome.n_right + 1) * plain_ms
            account.spent_ms += expected_ms

    def _of(self, key: int) -> _Account:
        return self._accounts.setdefault(key, _Account())
