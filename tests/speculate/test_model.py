"""A model that drafts: what its engine holds is what it believes to hold, whatever came between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_drafts import CHEAP, FLAT, N_VOCAB, Heard, engine, expected, next_token, request, run

from edgeinfer.engines.base import ForwardCancelled, Slice
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.scheduler import Scheduler
from edgeinfer.speculate import Speculator, Want
from edgeinfer.speculate.model import ModelDrafter, likeliest
from edgeinfer.speculate.vocabulary import VocabularyMap

patient = settings(deadline=None, max_examples=100)


def vocabulary(kind: str) -> VocabularyMap:
    """``permuted``: the draft's ids run backwards. ``spelled``: every third of the target's is two of its."""
    if kind == "same":
        return VocabularyMap.same(N_VOCAB)
    back = np.arange(N_VOCAB - 1, -1, -1, dtype=np.int32)
    if kind == "permuted":
        return VocabularyMap(back, back, {})
    there = np.where(np.arange(N_VOCAB) % 3, back, np.int32(-1)).astype(np.int32)
    return VocabularyMap(
        there, np.where(back % 3, back, -1).astype(np.int32), {i: (i, 1) for i in range(0, N_VOCAB, 3)}
    )


class Watched(ScriptedEngine):
    """Fails a pass where it is told to, with part of it computed, as an engine may."""

    cancel_next = False

    def forward(self, slices: Sequence[Slice]) -> npt.NDArray[np.float32]:
        if self.cancel_next:
            self.cancel_next = False
            for part in slices:
                self.truncate(part.seq, max(0, part.n_past - 2))
            raise ForwardCancelled
        return super().forward(slices)


def check(drafter: ModelDrafter, scripted: ScriptedEngine) -> None:
    for track in drafter._tracks.values():
        spelled = [i for token in track.tokens.tolist() for i in drafter._vocabulary.spell(token)]
        assert scripted._sequences[track.lease.seq] == spelled
        assert track.n_computed == len(spelled)
        assert len(track.ends) == len(track.tokens)
    for seq, kept in drafter._pool._idle.items():
        assert scripted._sequences[seq][: len(kept.tokens)] == kept.tokens.tolist()
        assert len(scripted._sequences[seq]) == len(kept.tokens), "or the next who continues it fails"
    assert drafter._pool.n_idle + len(drafter._tracks) == scripted.n_seq_max


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("guess", "follow", "grow", "end", "cancel", "forget")), st.integers(0, 3), st.integers(0, 6)
    ),
    max_size=40,
)


@pytest.mark.parametrize("kind", ["same", "permuted", "spelled"])
@patient
@given(steps=STEPS, beginnings=st.lists(st.integers(0, 12), min_size=4, max_size=4))
def test_it_holds_what_it_says(kind: str, steps: list[tuple[str, int, int]], beginnings: list[int]) -> None:
    """Of requests that begin alike, guess, are answered otherwise, end and are cancelled, in any order."""
    scripted = Watched(next_token, n_vocab=N_VOCAB, n_ctx=48, n_seq_max=3, n_batch=16)
    drafter = ModelDrafter(scripted, vocabulary(kind))
    texts: dict[int, list[int]] = {}
    serial = 0
    for what, who, n in steps:
        key = 10 * who + serial
        text = texts.setdefault(key, [*range(1, 1 + beginnings[who]), 20 + who])
        ids = np.array(text, np.int32)
        if what == "cancel":
            scripted.cancel_next = True
        try:
            if what == "follow":
                drafter.follow(key, ids, 2 * n)
            elif what in ("guess", "cancel"):
                drafts: list[int] = []
                for _ in range(1 + n % 3):
                    want = Want(key, ids, 9, 10, likeliest)
                    (found,) = drafter.guess([(want, np.array(drafts, np.int32))])
                    if found is None:
                        break
                    drafts.append(found[0])
        except ForwardCancelled:
            pass
        if what == "grow":
            text += [(key + n * i) % N_VOCAB for i in range(n)]
        if what == "end":
            drafter.end(key, ids)
            del texts[key]
            serial += 100
        if what == "forget":
            drafter.forget()
        scripted.cancel_next = False
        check(drafter, scripted)


@pytest.mark.parametrize("kind", ["same", "permuted", "spelled"])
def test_guesses_are_the_models_own_choice_in_the_targets_ids(kind: str) -> None:
    known = vocabulary(kind)
    drafter = ModelDrafter(ScriptedEngine(next_token, n_vocab=N_VOCAB), known)
    text = [5, 6, 9, 7]
    own = [i for token in text for i in known.spell(token)]
    wanted = int(known.to_target[next_token(own)])
    found = drafter.propose(1, np.array(text, np.int32), 1)
    assert found.token_ids.tolist() == ([wanted] if wanted >= 0 else [])


def test_the_context_of_the_draft_model_may_be_the_shorter() -> None:
    """It drafts as far as that reaches, and the answer goes on."""
    small = ScriptedEngine(next_token, n_vocab=N_VOCAB, n_ctx=40, n_seq_max=1)
    speculator = Speculator(FLAT, None, ModelDrafter(small, VocabularyMap.same(N_VOCAB)), CHEAP)
    scheduler, heard, after = Scheduler(engine(n_seq_max=1), speculator), Heard(), Heard()
    scheduler.submit(request([1, 2, 3], 100, heard))
    run(scheduler)
    assert heard.ids == expected([1, 2, 3], 100)
    assert heard.stats.n_accepted > 20
    scheduler.submit(request([4] * 60, 20, after))
    run(scheduler)
    assert (after.ids, after.stats.n_drafted) == (expected([4] * 60, 20), 0)


def test_a_draft_on_another_engine_and_with_padded_logits() -> None:
    """The drafter asks nothing of its engine but the protocol: another runtime, its ids and its padding will do."""
    known = vocabulary("permuted")

    def script(tokens: Sequence[int]) -> int:
        return int(known.to_draft[next_token([int(known.to_target[token]) for token in tokens])])

    other = ScriptedEngine(script, n_vocab=N_VOCAB + 10, n_ctx=512)
    scheduler, heard = Scheduler(engine(), Speculator(FLAT, None, ModelDrafter(other, known), CHEAP)), Heard()
    scheduler.submit(request([1, 2, 3], 64, heard))
    assert run(scheduler) < 30
    assert heard.ids == expected([1, 2, 3], 64)
    assert heard.stats.n_accepted == heard.stats.n_drafted > 30


def test_the_next_turn_of_a_conversation_is_not_read_again() -> None:
    drafter = ModelDrafter(ScriptedEngine(next_token, n_vocab=N_VOCAB, n_seq_max=1), VocabularyMap.same(N_VOCAB))
    first = np.arange(1, 41, dtype=np.int32)
    assert drafter.behind(1, first) == 40
    drafter.follow(1, first, 64)
    drafter.end(1, first)
    second = np.concatenate([first, np.array([7, 8, 9], np.int32)])
    assert drafter.behind(2, second) == 4  # the last of the first turn was never computed
    drafter.end(2, second)
    assert drafter.behind(3, np.array([5, 6, 7], np.int32)) == 3
