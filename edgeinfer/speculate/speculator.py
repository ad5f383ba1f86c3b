"""Speculation for everybody in flight: asks the drafters, weighs what they say against what it costs, and learns from
what became of it. Decides nothing about the text: the scheduler keeps only what the target itself chooses."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeinfer.errors import EngineError
from edgeinfer.process import LOG
from edgeinfer.speculate.base import Drafter, SteppedDrafter, TokenIds, Want
from edgeinfer.speculate.calibration import Calibration, Record
from edgeinfer.speculate.costs import CostCurve
from edgeinfer.speculate.economy import Economy, best_length, outlook, share
from edgeinfer.speculate.ledger import N_ANSWER, Checked, Ledger, Step

__all__ = ["Checked", "Speculator"]

_N_MOST = 24  # tokens of one draft
_MODEL_PRIOR = 0.75  # how often a draft model of which nothing is known yet is taken to be right
_MARGIN = 2.0  # by which an expected gain must exceed what reading the prompt with the draft model costs
_N_FEW = 8  # so many unread tokens are read with the next guess; more are a debt to be weighed first
_N_READ = 128  # unread tokens that are read between two steps
_PATIENCE = 0.25  # of the price of reading, what the model may lose on top
_RENT = 0.15  # the part of the price of reading that must have been missed first
_Tail = list[tuple[int, float]]


@dataclass(slots=True)
class _Chain:
    """A draft that grows. ``sources[i]``: whose token it is, and how sure that one was."""

    want: Want
    ids: list[int] = field(default_factory=list)
    survival: list[float] = field(default_factory=list)
    sources: list[tuple[Record, float]] = field(default_factory=list)

    @property
    def alive(self) -> float:
        return self.survival[-1] if self.survival else 1.0

    def add(self, token_id: int, record: Record, confidence: float) -> None:
        self.survival.append(self.alive * record.chance(confidence))
        self.ids.append(token_id)
        self.sources.append((record, confidence))


@dataclass(slots=True)
class _Followed:
    """What is known about one request."""

    text: Record
    seconded: Record
    model: Record
    chain: _Chain | None = None
    missed: float = 0.0
    n_missed: int = 0
    reading: bool = False


class Speculator:
    """Owns the drafters. All methods from the engine's thread, but `interrupt`.

    ``target``: the price of the target's passes; ``ngram``: guesses from the text, for nothing; ``model`` and
    ``model_cost``: a drafter that pays for each token, and its price. Closed by whoever made it.
    """

    def __init__(
        self,
        target: CostCurve,
        ngram: Drafter | None = None,
        model: SteppedDrafter | None = None,
        model_cost: CostCurve | None = None,
    ) -> None:
        self._target = target
        self._ngram = ngram
        self._model = model if model_cost is not None else None
        self._model_cost = model_cost
        self._calibrations = Calibration(), Calibration(), Calibration()
        self._followed: dict[int, _Followed] = {}
        self._ledger = Ledger(target.ms[0][0])
        self._step = Step(target.at(0))  # the present one
        # Of the present step, if it drafted: what a guess costs at its depth, and requests in flight.
        self._guess_price = model_cost.at(0) if model_cost is not None else self._step.price
        self._n_running = 1

    def draft(
        self, wants: Sequence[Want], n_other_rows: int, room: int, n_beside: int = 0, n_running: int = 1
    ) -> list[TokenIds]:
        """For each request the tokens to check in the next pass, which has ``n_other_rows`` besides one for each
        request and ``room`` left. ``n_beside`` of the other rows bring a token of an answer each, which a longer pass
        holds up. ``n_running`` requests are in flight, some of them still read their prompts. Raises
        `ForwardCancelled` when interrupted."""
        begin = time.perf_counter()
        self._step = Step(self._step.price, n_reading=n_other_rows - n_beside)
        self._n_running = max(n_running, len(wants))
        chains = [_Chain(want) for want in wants]
        for want, chain in zip(wants, chains, strict=True):
            self._known(want.key).chain = chain
        if wants and room > 0:
            depth = float(np.mean([len(want.tokens) for want in wants]))
            self._step.price = self._target.at(depth)
            if self._model_cost is not None:
                self._guess_price = self._model_cost.at(depth)
            economy = self._economy(len(wants) + n_other_rows, len(wants) + n_beside)
            self._grow([chain for chain in chains if self._credit(chain.want) > 0], economy)
            lengths = share([self._affordable(chain, economy) for chain in chains], economy, room)
        else:
            lengths = [0] * len(chains)
        self._step.draft_ms = 1e3 * (time.perf_counter() - begin)
        return [np.array(chain.ids[:n], np.int32) for chain, n in zip(chains, lengths, strict=True)]

    def _economy(self, n_rows: int, n_decoding: int) -> Economy:
        ledger = self._ledger
        return Economy(self._step.price, n_rows, n_decoding, gain=ledger.gain, caution=ledger.caution)

    def _credit(self, want: Want) -> float:
        return self._ledger.credit(want.key, want.n_left)

    def _affordable(self, chain: _Chain, economy: Economy) -> list[float]:
        """The survival of as many tokens as the request can lose all at once."""
        credit, n = self._credit(chain.want), len(chain.survival)
        while n and economy.growth(0, n) > credit:
            n -= 1
        return chain.survival[:n]

    # ---- drafting

    def _grow(self, chains: Sequence[_Chain], economy: Economy) -> None:
        """Ask the text first, then the model wherever it promises more than the text's own draft."""
        tails = [self._from_text(chain) for chain in chains]
        growing = [i for i, chain in enumerate(chains) if self._caught_up(chain, tails[i], economy)]
        while growing:
            n_before = sum(len(chain.ids) for chain in chains)
            growing = [i for i in growing if self._model_promises(chains[i], tails[i], economy, len(growing), n_before)]
            growing = self._ask_model(chains, growing)
        for chain, tail in zip(chains, tails, strict=True):
            self._append(chain, tail)
            n = chain.want.trim(chain.ids)
            del chain.ids[n:], chain.survival[n:], chain.sources[n:]

    def _from_text(self, chain: _Chain) -> _Tail:
        """The n-gram drafter's tokens and their confidence."""
        want = chain.want
        if self._ngram is None:
            return []
        draft = self._ngram.propose(want.key, want.tokens, min(want.n_max, _N_MOST))
        return list(zip(draft.token_ids.tolist(), draft.chances.tolist(), strict=True))

    def _tail(self, chain: _Chain, tail: _Tail) -> _Tail:
        """What the text's draft adds to what the model has drafted, where it agrees with that."""
        n = len(chain.ids)
        return tail[n:] if [token_id for token_id, _ in tail[:n]] == chain.ids else []

    def _survival(self, chain: _Chain, tail: _Tail) -> list[float]:
        """Of what `_append` would add."""
        record, alive, survival = self._text_record(chain), chain.alive, []
        for _, confidence in self._tail(chain, tail):
            alive *= record.chance(confidence)
            survival.append(alive)
        return survival

    def _append(self, chain: _Chain, tail: _Tail) -> None:
        record = self._text_record(chain)
        for token_id, confidence in self._tail(chain, tail):
            chain.add(token_id, record, confidence)

    def _text_record(self, chain: _Chain) -> Record:
        """What the text's tokens are worth: more where the model has just said the same as the first of them."""
        known = self._known(chain.want.key)
        return known.seconded if chain.ids else known.text

    def _model_promises(self, chain: _Chain, tail: _Tail, economy: Economy, n_asked: int, n_before: int) -> bool:
        """Whether one more token of the model is worth more than ending here with what the text adds."""
        want, known = chain.want, self._known(chain.want.key)
        n_max = min(want.n_max, _N_MOST) - len(chain.ids)
        if n_max <= 0:
            return False
        _, ending = best_length(self._survival(chain, tail), economy, n_before)
        token_ms = self._guess_price(n_asked) / n_asked
        going_on, _ = outlook(chain.alive, known.model.typical(_MODEL_PRIOR), token_ms, economy, n_before, n_max)
        return going_on > ending

    def _ask_model(self, chains: Sequence[_Chain], growing: list[int]) -> list[int]:
        """One more token for each; returns those that got one."""
        if not growing or self._model is None:
            return []
        self._step.guess_ms += self._guess_price(len(growing))
        asked = [(chains[i].want, np.array(chains[i].ids, np.int32)) for i in growing]
        try:
            guesses = self._model.guess(asked)
        except EngineError as error:
            self._give_up(error)
            return []
        answered = []
        for i, guess in zip(growing, guesses, strict=True):
            if guess is not None:
                chains[i].add(guess[0], self._known(chains[i].want.key).model, guess[1])
                answered.append(i)
        return answered

    def _caught_up(self, chain: _Chain, tail: _Tail, economy: Economy) -> bool:
        """Whether the model knows the text so far. Where it does not, some is read now if that promises to pay."""
        want = chain.want
        if self._model is None or self._model_cost is None:
            return False
        n_behind = self._model.behind(want.key, want.tokens)
        if n_behind <= _N_FEW:
            return True
        known = self._known(want.key)
        if not known.reading and not self._worth_reading(chain, tail, economy, n_behind):
            return False
        known.reading = n_behind > _N_READ
        self._step.read_ms += min(n_behind, _N_READ) * self._model_cost.read_ms
        try:
            self._model.follow(want.key, want.tokens, _N_READ)
        except EngineError as error:
            self._give_up(error)
            return False
        return self._model.behind(want.key, want.tokens) <= _N_FEW

    def _worth_reading(self, chain: _Chain, tail: _Tail, economy: Economy, n_behind: int) -> bool:
        """Whether the model will probably win more than it costs to have it read the text. As with skis, which one
        rents until it is clear that buying pays, a part of their price must have been missed before. (Reading only the
        end of a prompt is no way out: a draft model without what an answer refers to is right half as often.)"""
        if self._model_cost is None:
            return False
        want, known = chain.want, self._known(chain.want.key)
        typical = known.model.typical(_MODEL_PRIOR)
        if self._n_running > 1:  # those who read now will decode beside it
            economy = self._economy(self._n_running, self._n_running)
        _, without = best_length(self._survival(chain, tail), economy)
        with_model, n_tokens = outlook(1.0, typical, self._guess_price(1), economy, 0, _N_MOST)
        known.missed += max(0.0, with_model - without)
        known.n_missed += 1
        price = economy.tokens(n_behind * self._model_cost.read_ms)
        n_rounds = min(want.n_left, N_ANSWER) / (1 + n_tokens)
        pays = known.missed / known.n_missed * n_rounds > _MARGIN * price and known.missed > _RENT * price
        if pays:  # what was paid for is not given up for a few bad guesses
            self._ledger.lend(want.key, _PATIENCE * price)
        return pays

    def _give_up(self, error: EngineError) -> None:
        """A draft model that fails is not asked again; the answer does not depend on it."""
        LOG.warning("the draft model failed and is not used any more: %s", error)
        if self._model is not None:
            self._model.close()
        self._model = None

    # ---- learning

    def checked(self, outcomes: Sequence[Checked], n_rows: int, pass_ms: float) -> None:
        """What became of the last `draft`. ``n_rows`` were in the pass, which took ``pass_ms``."""
        if not outcomes:
            return
        for outcome in outcomes:
            self._learn(outcome)
        self._ledger.book(outcomes, dataclasses.replace(self._step, n_rows=n_rows, pass_ms=pass_ms))
        self._step = Step(self._step.price)

    def _learn(self, outcome: Checked) -> None:
        known = self._known(outcome.key)
        chain = known.chain
        if chain is None or not chain.ids:
            known.model.fade()
            known.text.fade()
            known.seconded.fade()
            return
        for record, confidence in chain.sources[: outcome.n_right]:
            record.saw(confidence, True)
        # The next drafted token was wrong, or it was not sent, and what the target chose in its place tells as much.
        if outcome.n_right < len(chain.ids) and outcome.next_id >= 0:
            record, confidence = chain.sources[outcome.n_right]
            record.saw(confidence, chain.ids[outcome.n_right] == outcome.next_id)

    def _known(self, key: int) -> _Followed:
        if key not in self._followed:
            text, seconded, model = self._calibrations
            self._followed[key] = _Followed(text.record(), seconded.record(), model.record())
        return self._followed[key]

    # ---- requests come and go

    def gain(self, key: int) -> float:
        """See `Ledger.gain_of`."""
        return self._ledger.gain_of(key)

    def end(self, key: int, tokens: TokenIds) -> None:
        """A request has ended with these tokens."""
        self._followed.pop(key, None)
        self._ledger.close(key)
        for drafter in (self._ngram, self._model):
            if drafter is not None:
                drafter.end(key, tokens)

    def forget(self) -> None:
        """Drop what ended requests have left with the drafters."""
        for drafter in (self._ngram, self._model):
            if drafter is not None:
                drafter.forget()

    def interrupt(self, on: bool) -> None:
        """End a drafting pass that runs. Thread-safe."""
        model = self._model
        if model is not None:
            model.interrupt(on)

    def close(self) -> None:
        """Free the draft model."""
        if self._model is not None:
            self._model.close()
            self._model = None
