"""The loop with drafts: the same answers, in fewer passes, whatever joins, leaves, stops or is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scripted_drafts import (
    CHEAP,
    EOS,
    FLAT,
    N_VOCAB,
    STEEP,
    Heard,
    Oracle,
    engine,
    expected,
    next_token,
    often_right,
    request,
    run,
)

from edgeinfer.engines.base import Slice
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.errors import EngineError
from edgeinfer.sampling.samplers import Floats
from edgeinfer.scheduler import Scheduler
from edgeinfer.speculate import Checked, CostCurve, Speculator, Want
from edgeinfer.speculate.costs import ROWS
from edgeinfer.speculate.model import ModelDrafter
from edgeinfer.speculate.ngram import NgramDrafter
from edgeinfer.speculate.vocabulary import VocabularyMap


def model_drafter(share: float, **settings: int | float) -> ModelDrafter:
    scripted = ScriptedEngine(often_right(share), n_vocab=N_VOCAB, **{"n_ctx": 512, **settings})  # type: ignore[arg-type]
    return ModelDrafter(scripted, VocabularyMap.same(N_VOCAB))


def speculators() -> dict[str, Speculator]:
    return {
        "always right": Speculator(FLAT, Oracle(1.0)),
        "half right": Speculator(FLAT, Oracle(0.5)),
        "always wrong": Speculator(FLAT, Oracle(0.0)),
        "ngram": Speculator(FLAT, NgramDrafter()),
        "model": Speculator(FLAT, None, model_drafter(0.8), CHEAP),
        "both": Speculator(FLAT, NgramDrafter(), model_drafter(0.6), CHEAP),
    }


@pytest.mark.parametrize("kind", speculators())
@pytest.mark.parametrize(("n_seq_max", "n_batch"), [(1, 512), (3, 5), (8, 40)])
def test_every_request_gets_its_own_answer(kind: str, n_seq_max: int, n_batch: int) -> None:
    """Twenty at once, more than fit, of all lengths, some with a common beginning."""
    rng = np.random.default_rng(1)
    scripted = engine(n_seq_max=n_seq_max, n_batch=n_batch)
    scheduler = Scheduler(scripted, speculators()[kind])
    shared = rng.integers(1, N_VOCAB, 30).tolist()
    prompts = [shared[: rng.integers(0, 30)] + rng.integers(1, N_VOCAB, n).tolist() for n in rng.integers(1, 60, 20)]
    heard = [Heard() for _ in prompts]
    for prompt, sink in zip(prompts, heard, strict=True):
        scheduler.submit(request(prompt, int(rng.integers(1, 40)), sink))
        scheduler.step()
    run(scheduler)
    for prompt, sink in zip(prompts, heard, strict=True):
        assert sink.ids == expected(prompt, len(sink.ids))
        assert (sink.reason, sink.n_ends) == ("length", 1)
        assert sink.stats.n_accepted <= sink.stats.n_drafted


def test_a_good_drafter_saves_passes_and_a_bad_one_is_left_alone() -> None:
    for share, least, most in ((1.0, 2, 12), (0.0, 60, 64)):
        scheduler, heard = Scheduler(engine(), Speculator(FLAT, Oracle(share, chance=0.5))), Heard()
        scheduler.submit(request([1, 2, 3], 64, heard))
        assert least <= run(scheduler) <= most
        assert heard.stats.n_rounds > 0
        assert heard.stats.n_accepted == (heard.stats.n_drafted if share else 0)


def test_no_draft_where_checking_costs_as_much_as_decoding() -> None:
    scheduler, heard = Scheduler(engine(), Speculator(STEEP, Oracle(0.9))), Heard()
    scheduler.submit(request([1, 2, 3], 64, heard))
    assert run(scheduler) == 64
    assert heard.stats.n_drafted == 0


def test_a_request_may_decline() -> None:
    scheduler, heard = Scheduler(engine(), Speculator(FLAT, Oracle())), Heard()
    declined = request([1, 2, 3], 20, heard)
    declined.takes_drafts = False
    scheduler.submit(declined)
    assert run(scheduler) == 20
    assert heard.stats.n_drafted == 0


def test_an_answer_ends_inside_a_draft() -> None:
    """By a stop string's token, by the end of generation, by its length and by the context; nothing of the draft's rest
    stays in the sequence that the next turn continues."""
    answer = expected([5, 6], 40)
    stop_at = answer[9]
    scripted = engine(n_seq_max=1)
    scheduler, heard, after = Scheduler(scripted, Speculator(FLAT, Oracle())), Heard(stop_at=stop_at), Heard()
    scheduler.submit(request([5, 6], None, heard))
    run(scheduler)
    assert heard.ids == answer[: answer.index(stop_at) + 1]
    scheduler.submit(request([5, 6, *heard.ids, 9], 10, after))
    run(scheduler)
    assert after.ids == expected([5, 6, *heard.ids, 9], 10)
    assert after.stats.n_reused >= 1 + len(heard.ids)

    ending = ScriptedEngine(lambda tokens: 5 if len(tokens) < 9 else EOS, n_vocab=N_VOCAB)
    scheduler, heard = (
        Scheduler(ending, Speculator(FLAT, Oracle(script=lambda tokens: 5 if len(tokens) < 9 else EOS))),
        Heard(),
    )
    scheduler.submit(request([1, 2, 3], None, heard))
    run(scheduler)
    assert (heard.ids, heard.reason) == ([5] * 6, "stop")

    scheduler, heard = Scheduler(engine(n_ctx=20), Speculator(FLAT, Oracle())), Heard()
    scheduler.submit(request([1, 2, 3], None, heard, n_ctx=20))
    run(scheduler)
    assert (len(heard.ids), heard.reason) == (17, "length")


def test_an_end_that_was_drafted_does_not_stay_in_the_sequence() -> None:
    """It is no token of the text: the next turn, which begins with that text, found one more token than it knew of."""

    def script(tokens: Sequence[int]) -> int:
        return 5 if len(tokens) % 10 < 9 else EOS

    scripted = ScriptedEngine(script, n_vocab=N_VOCAB, n_seq_max=1)
    scheduler = Scheduler(scripted, Speculator(FLAT, Oracle(script=script)))
    heard, after = Heard(), Heard()
    scheduler.submit(request([1, 2, 3], None, heard))
    run(scheduler)
    assert (heard.ids, heard.reason, heard.stats.n_accepted > 0) == ([5] * 6, "stop", True)
    assert scripted.length(0) <= 9
    scheduler.submit(request([1, 2, 3, *heard.ids, 7, 8], None, after))
    run(scheduler)
    assert (after.error, after.ids, after.reason) == (None, [5] * 8, "stop")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 0}, {"repeat_penalty": 1.3, "top_p": 0.8}, {"logit_bias": {3: 2.0}}]
)
def test_a_seed_gives_the_same_text_with_drafts(seed: int, settings: dict[str, Any]) -> None:
    def script(tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        row = np.random.default_rng(next_token(tokens)).standard_normal(N_VOCAB).astype(np.float32) * 2
        row[EOS] = -50.0
        return row

    texts = []
    for speculator in (
        None,
        Speculator(FLAT, Oracle(0.3)),
        Speculator(
            FLAT, None, ModelDrafter(ScriptedEngine(script, n_vocab=N_VOCAB), VocabularyMap.same(N_VOCAB)), CHEAP
        ),
    ):
        scheduler, heard = Scheduler(ScriptedEngine(script, n_vocab=N_VOCAB), speculator), Heard()
        scheduler.submit(request([1, 2], 80, heard, temperature=1.0, seed=seed, logprobs=2, **settings))
        run(scheduler)
        texts.append(heard.sampled)
        stats = heard.stats
    assert texts[0] == texts[1] == texts[2]
    if "top_k" in settings or not settings:  # what penalties do is not known to a drafter
        assert stats.n_accepted > 0.7 * stats.n_drafted > 20, "who knows the distribution guesses what will be drawn"


class Even:
    """A constraint: even tokens only."""

    finished = False

    def mask(self, logits: Floats) -> None:
        logits[1::2] = -np.inf

    def accept(self, token_id: int) -> None:
        assert token_id % 2 == 0

    def fits(self, token_ids: Sequence[int]) -> int:
        return next((i for i, token_id in enumerate(token_ids) if token_id % 2), len(token_ids))


def test_a_grammar_holds_inside_a_draft() -> None:
    def script(tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        row = np.zeros(N_VOCAB, np.float32)
        row[next_token(tokens)], row[2 + 2 * (len(tokens) % 9)] = 9.0, 5.0
        return row

    answers = []
    for speculator in (None, Speculator(FLAT, Oracle(script=lambda tokens: 2 + 2 * (len(tokens) % 9)))):
        scheduler, heard = Scheduler(ScriptedEngine(script, n_vocab=N_VOCAB), speculator), Heard()
        scheduler.submit(request([1, 2], 40, heard, constraint=Even()))
        run(scheduler)
        answers.append(heard.ids)
        assert all(token % 2 == 0 for token in heard.ids)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
def test_cancel_frees_the_place_within_the_step(n_steps: int) -> None:
    scheduler = Scheduler(engine(n_seq_max=1, n_batch=50), Speculator(FLAT, None, model_drafter(0.7), CHEAP))
    gone, waiting = Heard(), Heard()
    doomed = request([1] * 120, 100, gone)
    scheduler.submit(doomed)
    scheduler.submit(request([4, 5], 30, waiting))
    for _ in range(n_steps):
        scheduler.step()
    scheduler.cancel(doomed)
    scheduler.step()
    assert (gone.reason, gone.n_ends) == ("cancelled", 1)
    run(scheduler)
    assert waiting.ids == expected([4, 5], 30)


def test_cancel_is_heard_while_the_draft_model_works() -> None:
    slow = model_drafter(1.0, step_s=0.002)
    scheduler, gone, other = Scheduler(engine(), Speculator(FLAT, None, slow, CHEAP)), Heard(), Heard()
    doomed = request([1] * 400, 100, gone)
    scheduler.submit(doomed)
    scheduler.submit(request([8, 9], 3, other))
    threading.Timer(0.05, scheduler.cancel, [doomed, "deadline"]).start()
    run(scheduler)
    assert gone.reason == "deadline"
    assert gone.stats.total_s < 0.5  # reading the prompt with the draft model would have taken 0.8 s
    assert other.ids == expected([8, 9], 3)


def test_a_draft_model_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(ScriptedEngine):
        def forward(self, _slices: Sequence[Slice]) -> npt.NDArray[np.float32]:
            raise EngineError("out of luck")

    failing = Failing(next_token, n_vocab=N_VOCAB)
    drafter = ModelDrafter(failing, VocabularyMap.same(N_VOCAB))
    scheduler, heard = Scheduler(engine(), Speculator(FLAT, None, drafter, CHEAP)), Heard()
    scheduler.submit(request([1, 2, 3], 20, heard))
    run(scheduler)
    assert heard.ids == expected([1, 2, 3], 20)
    assert failing.closed
    assert [record.message for record in caplog.records] == [
        "the draft model failed and is not used any more: out of luck"
    ]


def test_drafters_hear_that_a_request_has_ended() -> None:
    oracle = Oracle(0.5)
    scheduler = Scheduler(engine(), Speculator(FLAT, oracle))
    requests = [request([i + 1], 10, Heard()) for i in range(6)]
    for each in requests:
        scheduler.submit(each)
    run(scheduler)
    assert sorted(oracle.ended) == sorted(each.key for each in requests)
    assert scheduler._speculator is not None
    assert not scheduler._speculator._followed


def test_cancel_is_heard_by_a_draft_that_others_wait_for() -> None:
    """A prompt is read in the same step as somebody's draft is made: cancelled meanwhile, it does not wait for it."""
    interrupted: list[bool] = []

    class Cancelling(ScriptedEngine):
        def forward(self, slices: Sequence[Slice]) -> npt.NDArray[np.float32]:
            if reading in scheduler._running:
                scheduler.cancel(reading)
                interrupted.append(self._interrupted)
            return super().forward(slices)

    drafter = ModelDrafter(Cancelling(next_token, n_vocab=N_VOCAB), VocabularyMap.same(N_VOCAB))
    scheduler = Scheduler(engine(), Speculator(FLAT, None, drafter, CHEAP))
    heard, gone = Heard(), Heard()
    reading = request([3] * 300, 10, gone)
    scheduler.submit(request([1, 2], 60, heard))
    scheduler.step()
    scheduler.submit(reading)
    run(scheduler)
    assert interrupted == [True]
    assert (gone.reason, gone.ids) == ("cancelled", [])
    assert heard.ids == expected([1, 2], 60)


def test_drafts_pay_for_holding_up_those_who_take_none() -> None:
    """What pays for one alone does not where seven others, who decline, wait for a longer pass."""
    rows = tuple(10.0 + n for n in ROWS)
    for n_declining, drafts in ((0, True), (7, False)):
        speculator = Speculator(CostCurve((32, 512), (rows, rows), 1.0), Oracle(0.3, chance=0.3))
        scheduler, heard = Scheduler(engine(n_seq_max=8), speculator), Heard()
        for i in range(n_declining):
            declining = request([9, i], 40, Heard())
            declining.takes_drafts = False
            scheduler.submit(declining)
        scheduler.submit(request([1, 2, 3], 10, heard))
        run(scheduler)
        assert (heard.stats.n_drafted > 0) is drafts


def test_rows_of_others_are_no_loss() -> None:
    speculator = Speculator(STEEP)
    speculator.draft([Want(1, np.array([1, 2], np.int32), 10, 11, lambda *_: (0, 1.0))], 7, 100)
    speculator.checked([Checked(1, 0, 0, 3)], n_rows=8, pass_ms=80.0)
    assert speculator.gain(1) == 1.0
