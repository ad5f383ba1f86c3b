"""What requests share: a prefix is computed once, whoever asks, and what has ended is kept while there is room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from test_scheduler import Heard, engine, expected, next_token, request, run

from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.line import MOST_OVERTAKEN
from edgeinfer.scheduler import Scheduler

N_VOCAB = 256


def random_ids(n: int, seed: int) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(1, N_VOCAB, n).tolist()
    return ids


def submit(scheduler: Scheduler, prompts: Sequence[list[int]], n: int = 4, n_ctx: int = 2048) -> list[Heard]:
    heard = [Heard() for _ in prompts]
    for prompt, sink in zip(prompts, heard, strict=True):
        scheduler.submit(request(prompt, n, sink, n_ctx=n_ctx))
    return heard


@pytest.mark.parametrize("n_parallel", [1, 4, 8])
@pytest.mark.parametrize("n_more", [0, 8])
@pytest.mark.parametrize("block_size", [1, 64])
def test_a_shared_prefix_is_computed_once(n_parallel: int, n_more: int, block_size: int) -> None:
    shared = random_ids(1000, 1)
    prompts = [[*shared, *random_ids(20 + i, 100 + i)] for i in range(32)]
    scripted = engine(
        n_ctx=2048, n_seq_max=n_parallel + n_more, n_cells=2048 * n_parallel, n_batch=512, block_size=block_size
    )
    scheduler = Scheduler(scripted, n_parallel=n_parallel)
    heard = submit(scheduler, prompts)
    most = 0
    while not scheduler.idle:
        scheduler.step()
        most = max(most, scheduler.n_running)
    assert [sink.ids for sink in heard] == [expected(prompt, 4) for prompt in prompts]
    once = len(shared) + sum(len(prompt) - len(shared) for prompt in prompts)
    assert scheduler.n_prefilled <= (1.1 if block_size == 1 else 2.0) * once  # blocks of 64: up to 63 more for each
    assert scheduler.n_prefilled == sum(sink.stats.n_prefilled for sink in heard)
    assert all(sink.stats.n_prefilled + sink.stats.n_reused == sink.stats.n_prompt for sink in heard)
    assert most == n_parallel


def test_the_same_prompt_many_times_is_computed_once() -> None:
    """Samples of one prompt: each computes its last token, for the logits, and nothing else of it."""
    prompt = random_ids(300, 2)
    scheduler = Scheduler(engine(n_ctx=1024, n_seq_max=12, n_cells=4096), n_parallel=4)
    heard = submit(scheduler, [prompt] * 10, n_ctx=1024)
    run(scheduler)
    assert {tuple(sink.ids) for sink in heard} == {tuple(expected(prompt, 4))}
    assert scheduler.n_prefilled == 300 + 9


def test_undo_and_regenerate_compute_nothing_again() -> None:
    scheduler = Scheduler(engine(n_ctx=1024, n_seq_max=5, n_cells=1024), n_parallel=1)
    first = random_ids(200, 3)
    (one,) = submit(scheduler, [first], n=30)
    run(scheduler)
    question = [*first, *one.ids, *random_ids(40, 4)]
    (two,) = submit(scheduler, [question], n=30)
    run(scheduler)
    (again,) = submit(scheduler, [question], n=30)
    run(scheduler)
    other = [*first, *one.ids, *random_ids(25, 5)]
    (undone,) = submit(scheduler, [other], n=30)
    run(scheduler)
    (back,) = submit(scheduler, [[*question, *two.ids, 7, 7]], n=3)
    run(scheduler)
    assert again.ids == two.ids
    assert again.stats.n_prefilled == 1
    assert undone.stats.n_prefilled <= 26
    assert back.stats.n_prefilled <= 3  # the turn that was undone is still there


def test_strangers_pass_who_waits_for_a_prefix() -> None:
    shared = random_ids(400, 6)
    scheduler = Scheduler(engine(n_ctx=1024, n_seq_max=3, n_batch=50), n_parallel=3)
    (first,) = submit(scheduler, [[*shared, 1]], n=1)
    scheduler.step()
    same, stranger = submit(scheduler, [[*shared, 2], [9, 8, 7]], n=1)
    for _ in range(3):
        scheduler.step()
    assert stranger.reason == "length"
    assert first.reason is same.reason is None
    run(scheduler)
    assert same.ids == expected([*shared, 2], 1)
    assert same.stats.n_prefilled <= 32  # so little is not worth waiting for


def test_who_waits_for_a_reader_that_is_cancelled_reads_itself() -> None:
    shared = random_ids(400, 7)
    scheduler = Scheduler(engine(n_ctx=1024, n_seq_max=2, n_batch=50))
    gone, stays = Heard(), Heard()
    doomed = request([*shared, 1], 1, gone, n_ctx=1024)
    scheduler.submit(doomed)
    scheduler.submit(request([*shared, 2], 1, stays, n_ctx=1024))
    for _ in range(3):
        scheduler.step()
    scheduler.cancel(doomed)
    run(scheduler)
    assert gone.reason == "cancelled"
    assert stays.ids == expected([*shared, 2], 1)


def test_what_is_warm_goes_first_but_nobody_starves() -> None:
    """One place. Requests with a prefix that is in memory keep coming; a stranger among them is overtaken by some."""
    shared = random_ids(300, 8)
    scheduler = Scheduler(engine(n_ctx=1024, n_seq_max=1))
    submit(scheduler, [[*shared, 1]], n=1)
    run(scheduler)
    (stranger,) = submit(scheduler, [random_ids(50, 9)], n=1)
    warm: list[Heard] = []
    n_before = 0
    for i in range(3 * MOST_OVERTAKEN):
        warm += submit(scheduler, [[*shared, 2, i]], n=1)
        warm += submit(scheduler, [[*shared, 3, i]], n=1)
        scheduler.step()
        n_before += stranger.reason is None
    assert n_before > 0
    n_overtook = sum(sink.reason is not None for sink in warm)
    assert stranger.reason == "length"
    assert n_before <= MOST_OVERTAKEN + 1
    assert n_overtook >= MOST_OVERTAKEN
    run(scheduler)


def test_ended_conversations_stay_beyond_the_places() -> None:
    """One request at a time, five conversations in turns: each goes on where it was."""
    scheduler = Scheduler(engine(n_ctx=512, n_seq_max=6, n_cells=2048), n_parallel=1)
    talks = [random_ids(100, 20 + i) for i in range(5)]
    for _ in range(3):
        for i, talk in enumerate(talks):
            (heard,) = submit(scheduler, [talk], n=5, n_ctx=512)
            run(scheduler)
            assert heard.ids == expected(talk, 5)
            talks[i] = [*talk, *heard.ids, 1 + i, 2]
    assert scheduler.n_prefilled == 5 * (100 + 2 * 3)  # of a next turn: the last token of the answer, and two


def test_cells_are_shared_under_one_budget() -> None:
    """What is kept goes least recently used first, and only when its cells are needed."""
    scripted = engine(n_ctx=512, n_seq_max=6, n_cells=700)
    scheduler = Scheduler(scripted, n_parallel=1)
    prompts = [random_ids(200, 30 + i) for i in range(4)]
    for prompt in prompts:
        submit(scheduler, [prompt], n=1, n_ctx=512)
        run(scheduler)
        assert sum(scripted.length(seq) for seq in range(6)) <= 700
    lengths = sorted(scripted.length(seq) for seq in range(6))
    assert lengths == [0, 0, 0, 200, 200, 200]
    (oldest,) = submit(scheduler, [prompts[1]], n=1)
    run(scheduler)
    assert oldest.stats.n_reused == 199
    (gone,) = submit(scheduler, [prompts[0]], n=1)
    run(scheduler)
    assert gone.stats.n_reused == 0


def test_a_forked_prefix_counts_once() -> None:
    """Eight requests of 300 tokens in cells for 500: possible only because 280 of them are the same."""
    shared = random_ids(280, 40)
    scripted = engine(n_ctx=320, n_seq_max=9, n_cells=600)
    scheduler = Scheduler(scripted, n_parallel=1)
    for i in range(8):
        submit(scheduler, [[*shared, *random_ids(20, 50 + i)]], n=1, n_ctx=320)
        run(scheduler)
    assert scheduler.n_prefilled == 280 + 8 * 20
    assert sum(scripted.length(seq) > 0 for seq in range(9)) == 8


def test_state_that_cannot_be_cut_is_reused_whole() -> None:
    """As with recurrent layers: a conversation goes on, one that was cut is computed again, and nothing is confused."""

    class Recurrent(ScriptedEngine):
        def truncate(self, seq: int, n_tokens: int) -> int:
            return super().truncate(seq, n_tokens if n_tokens >= self.length(seq) else 0)

    scripted = Recurrent(next_token, n_vocab=N_VOCAB, n_ctx=512, n_seq_max=3)
    scripted.rewinds = False
    scheduler = Scheduler(scripted)
    prompt = random_ids(100, 60)
    (one,) = submit(scheduler, [prompt], n=5, n_ctx=512)
    run(scheduler)
    for asked, n_reused in ([*prompt, *one.ids, 3], 104), ([*prompt[:50], 4], 0), (prompt, 0):
        (heard,) = submit(scheduler, [asked], n=5, n_ctx=512)
        run(scheduler)
        assert heard.stats.n_reused == n_reused
        assert heard.ids == expected(asked, 5)
