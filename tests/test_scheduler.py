"""The loop, over the scripted engine: who is computed when, what is reused, and that nobody hears of anybody else."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.core import FinishReason, GenerationStats, SamplingParams
from edgeinfer.engines.base import Slice
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.errors import ContextOverflow, EdgeInferError, EngineError, NumericError, RequestCancelled, UsageError
from edgeinfer.request import EmbedRequest, Request
from edgeinfer.sampling import Sampled, Sampler
from edgeinfer.scheduler import N_PREFILL_BESIDE_DECODE, Scheduler

N_VOCAB = 256
EOS = 0


def next_token(tokens: Sequence[int]) -> int:
    """A hash of everything so far: any mix-up of sequences or positions changes the answer. Never EOS."""
    value = 7
    for token in tokens:
        value = (value * 31 + token) % 65521
    return 1 + value % (N_VOCAB - 1)


def expected(prompt: Sequence[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class Heard:
    """A sink that keeps what it hears, and can stop or interfere at a token."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.ids: list[int] = []
        self.reason: FinishReason | None = None
        self.stats = GenerationStats()
        self.error: EdgeInferError | None = None
        self.n_ends = 0
        self._stop_after = stop_after

    def token(self, sampled: Sampled) -> bool:
        self.ids.append(sampled.token_id)
        return len(self.ids) == self._stop_after

    def done(self, reason: FinishReason, stats: GenerationStats) -> None:
        self.reason, self.stats = reason, stats
        self.n_ends += 1

    def failed(self, error: EdgeInferError) -> None:
        self.error = error
        self.n_ends += 1

    def embedded(self, states: npt.NDArray[np.float32]) -> None:
        self.states = states
        self.n_ends += 1


def engine(**settings: int | float) -> ScriptedEngine:
    return ScriptedEngine(next_token, n_vocab=N_VOCAB, **{"n_ctx": 512, **settings})  # type: ignore[arg-type]


def request(prompt: Sequence[int], n: int | None, sink: Heard, n_ctx: int = 512, **params: object) -> Request:
    ids = np.array(prompt, np.int32)
    sampling = SamplingParams(temperature=0.0, **params)  # type: ignore[arg-type]
    return Request(ids, Sampler(sampling, N_VOCAB, ids), sink, n_ctx=n_ctx, max_tokens=n, eog_ids=[EOS])


def run(scheduler: Scheduler, limit: int = 10_000) -> int:
    for n_steps in range(limit):
        if scheduler.idle:
            return n_steps
        scheduler.step()
    raise AssertionError("the scheduler never came to rest")


def test_one_request() -> None:
    scheduler, heard = Scheduler(engine()), Heard()
    scheduler.submit(request([1, 2, 3], 10, heard))
    assert run(scheduler) == 10
    assert heard.ids == expected([1, 2, 3], 10)
    assert heard.reason == "length"
    assert (heard.stats.n_prompt, heard.stats.n_reused, heard.stats.n_generated) == (3, 0, 10)
    assert 0 < heard.stats.ttft_s <= heard.stats.total_s


@pytest.mark.parametrize("n_seq_max", [1, 3, 8])
@pytest.mark.parametrize("n_batch", [1, 7, 512])
def test_every_request_gets_its_own_answer(n_seq_max: int, n_batch: int) -> None:
    """Twenty at once, more than fit, of all lengths, some with a common beginning: each answers as if it were alone."""
    rng = np.random.default_rng(1)
    scheduler = Scheduler(engine(n_seq_max=n_seq_max, n_batch=n_batch))
    shared = rng.integers(1, N_VOCAB, 30).tolist()
    lengths = rng.integers(1, 100, 20)
    prompts = [shared[: rng.integers(0, 30)] + rng.integers(1, N_VOCAB, n).tolist() for n in lengths]
    heard = [Heard() for _ in prompts]
    for prompt, sink in zip(prompts, heard, strict=True):
        scheduler.submit(request(prompt, int(rng.integers(1, 40)), sink))
        scheduler.step()
    run(scheduler)
    for prompt, sink in zip(prompts, heard, strict=True):
        assert sink.ids == expected(prompt, len(sink.ids))
        assert sink.reason == "length"
        assert sink.n_ends == 1


def test_prompts_are_cut_at_blocks_only() -> None:
    """Where the engine rounds by blocks of 16, cuts and reused prefixes are multiples of 16, whoever else is there."""
    rng = np.random.default_rng(2)
    scripted = engine(n_seq_max=4, n_batch=48, block_size=16)
    scheduler = Scheduler(scripted)
    shared = rng.integers(1, N_VOCAB, 100).tolist()
    prompts = [
        shared[: rng.integers(0, 100)] + rng.integers(1, N_VOCAB, rng.integers(1, 90)).tolist() for _ in range(30)
    ]
    heard = [Heard() for _ in prompts]
    for prompt, sink in zip(prompts, heard, strict=True):
        scheduler.submit(request(prompt, 12, sink))
        scheduler.step()
    run(scheduler)
    assert [sink.ids for sink in heard] == [expected(prompt, 12) for prompt in prompts]
    assert {sink.stats.n_reused % 16 for sink in heard} == {0}
    assert sum(sink.stats.n_reused for sink in heard) > 0
    assert {part.n_past % 16 for call in scripted.calls for part in call if len(part.token_ids) > 1} == {0}
    cut = [part for call in scripted.calls for part in call if not part.n_logits]
    assert len(cut) > 10
    assert {(part.n_past + len(part.token_ids)) % 16 for part in cut} == {0}


def test_first_come_first_served() -> None:
    scheduler = Scheduler(engine(n_seq_max=2))
    ends: list[int] = []

    class Ends(Heard):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def done(self, reason: FinishReason, stats: GenerationStats) -> None:
            super().done(reason, stats)
            ends.append(self.number)

    for number in range(6):
        scheduler.submit(request([number + 1], 5, Ends(number)))
    run(scheduler)
    assert ends == sorted(ends)


def test_a_prompt_is_read_in_small_pieces_beside_decoding() -> None:
    scripted = engine()
    scheduler, talking = Scheduler(scripted), Heard()
    scheduler.submit(request([1, 2, 3], 100, talking))
    scheduler.step()
    scheduler.submit(request([5] * 400, 1, Heard()))
    before = len(talking.ids)
    scheduler.step()
    assert len(talking.ids) == before + 1
    sizes = sorted(len(part.token_ids) for part in scripted.calls[-1])
    assert sizes == [1, N_PREFILL_BESIDE_DECODE]


def test_prompts_take_turns() -> None:
    """A short prompt does not wait for a long one that came before it."""
    scheduler, long, short = Scheduler(engine(n_batch=50)), Heard(), Heard()
    scheduler.submit(request([5] * 450, 1, long))
    scheduler.step()
    scheduler.submit(request([6, 7], 1, short))
    for _ in range(4):
        scheduler.step()
    assert short.reason == "length"
    assert long.reason is None


def test_next_turn_computes_only_what_is_new() -> None:
    scripted = engine(n_seq_max=1)
    scheduler, first, second = Scheduler(scripted), Heard(), Heard()
    scheduler.submit(request([1, 2, 3], 10, first))
    run(scheduler)
    conversation = [1, 2, 3, *first.ids, 9, 9]
    n_before = len(scripted.calls)
    scheduler.submit(request(conversation, 5, second))
    run(scheduler)
    # The last token of an answer has been chosen but not computed: it and the two new ones are.
    assert second.stats.n_reused == 12
    assert len(scripted.calls[n_before][0].token_ids) == 3
    assert second.ids == expected(conversation, 5)


def test_the_same_prompt_again_computes_one_token() -> None:
    scheduler, first, second = Scheduler(engine(n_seq_max=1)), Heard(), Heard()
    for heard in (first, second):
        scheduler.submit(request(list(range(1, 50)), 5, heard))
        run(scheduler)
    assert second.stats.n_reused == 48
    assert second.ids == first.ids


def test_a_running_request_lends_its_prefix() -> None:
    scheduler, first, second = Scheduler(engine(n_seq_max=2)), Heard(), Heard()
    scheduler.submit(request(list(range(1, 100)), 50, first))
    for _ in range(5):
        scheduler.step()
    scheduler.submit(request([*range(1, 90), 200], 5, second))
    run(scheduler)
    assert second.stats.n_reused == 89
    assert first.ids == expected(list(range(1, 100)), 50)
    assert second.ids == expected([*range(1, 90), 200], 5)


def test_a_conversation_survives_another_beside_it() -> None:
    """With two places, a stranger takes the empty one and not the one that a conversation lies in."""
    scheduler, first, stranger, second = Scheduler(engine(n_seq_max=2)), Heard(), Heard(), Heard()
    for prompt, heard in ([1, 2, 3, 4], first), ([1, 9, 9, 9], stranger):
        scheduler.submit(request(prompt, 10, heard))
        run(scheduler)
    scheduler.submit(request([1, 2, 3, 4, *first.ids, 5], 3, second))
    run(scheduler)
    assert second.stats.n_reused == 13


def test_end_of_generation_is_not_part_of_the_answer() -> None:
    scheduler, heard = Scheduler(ScriptedEngine(lambda tokens: 5 if len(tokens) < 6 else EOS)), Heard()
    scheduler.submit(request([1, 2, 3], None, heard))
    run(scheduler)
    assert (heard.ids, heard.reason) == ([5, 5, 5], "stop")


def test_the_sink_stops_the_answer_within_the_step() -> None:
    scheduler, heard = Scheduler(engine()), Heard(stop_after=4)
    scheduler.submit(request([1, 2, 3], None, heard))
    assert run(scheduler) == 4
    assert heard.reason == "stop"


def test_the_context_ends_an_answer() -> None:
    scheduler, heard = Scheduler(engine(n_ctx=20)), Heard()
    scheduler.submit(request([1, 2, 3], None, heard, n_ctx=20))
    run(scheduler)
    assert (len(heard.ids), heard.reason) == (17, "length")


def test_a_prompt_that_does_not_fit_says_both_numbers() -> None:
    with pytest.raises(ContextOverflow, match="600 tokens but the context holds 512"):
        request([1] * 600, 1, Heard())
    with pytest.raises(UsageError, match="empty"):
        request([], 1, Heard())


@pytest.mark.parametrize("n_steps", [0, 1, 3])
def test_cancel_frees_the_place_within_the_step(n_steps: int) -> None:
    scheduler, gone, waiting = Scheduler(engine(n_seq_max=1, n_batch=50)), Heard(), Heard()
    doomed = request([1] * 120, 100, gone)
    scheduler.submit(doomed)
    scheduler.submit(request([4, 5], 3, waiting))
    for _ in range(n_steps):
        scheduler.step()
    scheduler.cancel(doomed)
    scheduler.cancel(doomed)
    scheduler.step()
    assert (gone.reason, gone.n_ends) == ("cancelled", 1)
    run(scheduler)
    assert waiting.ids == expected([4, 5], 3)
    scheduler.cancel(doomed)
    assert gone.n_ends == 1


def test_cancel_inside_a_long_prefill() -> None:
    scheduler, gone, other = Scheduler(engine(step_s=0.002)), Heard(), Heard()
    doomed = request([1] * 500, 5, gone)
    scheduler.submit(doomed)
    scheduler.submit(request([8, 9], 3, other))
    threading.Timer(0.05, scheduler.cancel, [doomed]).start()
    run(scheduler)
    assert (gone.reason, gone.ids) == ("cancelled", [])
    assert gone.stats.total_s < 0.5  # the whole pass would have taken more than a second
    assert other.ids == expected([8, 9], 3)


def test_cancelling_one_of_many_does_not_disturb_the_others() -> None:
    scheduler = Scheduler(engine(n_seq_max=4))
    heard = [Heard() for _ in range(4)]
    requests = [request([i + 1, 50], 30, sink) for i, sink in enumerate(heard)]
    for each in requests:
        scheduler.submit(each)
    for _ in range(5):
        scheduler.step()
    scheduler.cancel(requests[1], "deadline")
    run(scheduler)
    assert heard[1].reason == "deadline"
    for i in (0, 2, 3):
        assert heard[i].ids == expected([i + 1, 50], 30)


def test_a_row_that_is_not_a_number_fails_its_request_alone() -> None:
    def script(tokens: Sequence[int]) -> int | npt.NDArray[np.float32]:
        return np.full(N_VOCAB, np.nan, np.float32) if tokens[0] == 66 and len(tokens) > 4 else next_token(tokens)

    scheduler, bad, good = Scheduler(ScriptedEngine(script, n_vocab=N_VOCAB)), Heard(), Heard()
    scheduler.submit(request([66, 1], 20, bad))
    scheduler.submit(request([2, 1], 20, good))
    run(scheduler)
    assert isinstance(bad.error, NumericError)
    assert bad.n_ends == 1
    assert good.ids == expected([2, 1], 20)


def test_a_failing_engine_fails_who_was_in_the_pass_and_goes_on() -> None:
    class Failing(ScriptedEngine):
        broken = True

        def forward(self, slices: Sequence[Slice]) -> npt.NDArray[np.float32]:
            if self.broken:
                raise EngineError("it failed")
            return super().forward(slices)

    failing = Failing(next_token, n_vocab=N_VOCAB)
    scheduler, bad, good = Scheduler(failing), Heard(), Heard()
    scheduler.submit(request([1, 2], 5, bad))
    scheduler.step()
    assert isinstance(bad.error, EngineError)
    failing.broken = False
    scheduler.submit(request([1, 2], 5, good))
    run(scheduler)
    assert good.ids == expected([1, 2], 5)


def test_few_cells_make_requests_wait_and_old_ones_go() -> None:
    """Cells for one and a half requests: they run one after another, and what is kept goes when its room is needed."""
    scheduler = Scheduler(engine(n_seq_max=4, n_cells=150))
    heard = [Heard() for _ in range(6)]
    for i, sink in enumerate(heard):
        scheduler.submit(request([i + 1] * 60, 40, sink))
    most = 0
    for _ in range(1000):
        scheduler.step()
        most = max(most, scheduler.n_running)
    assert most == 1
    for i, sink in enumerate(heard):
        assert sink.ids == expected([i + 1] * 60, 40)


def test_fail_all_tells_everybody_once() -> None:
    scheduler, running, waiting = Scheduler(engine(n_seq_max=1)), Heard(), Heard()
    scheduler.submit(request([1], 50, running))
    scheduler.submit(request([2], 50, waiting))
    scheduler.step()
    scheduler.fail_all(RequestCancelled("closed"))
    assert scheduler.idle
    for heard in (running, waiting):
        assert isinstance(heard.error, RequestCancelled)
        assert heard.n_ends == 1


def test_embeddings_take_their_turn() -> None:
    scheduler, talking, embedding = Scheduler(engine(n_seq_max=1)), Heard(), Heard()
    scheduler.submit(request([1, 2], 10, talking))
    scheduler.submit(EmbedRequest(np.array([3, 4, 5], np.int32), embedding, n_ctx=512))
    run(scheduler)
    assert talking.ids == expected([1, 2], 10)
    assert embedding.states.shape == (3, 8)


@pytest.mark.parametrize("seed", range(10))
def test_random_comings_and_goings(seed: int) -> None:
    """Requests arrive, are cancelled and share beginnings at random; each answer is the beginning of its own."""
    rng = np.random.default_rng(seed)
    n_seq_max, n_batch = int(rng.integers(1, 6)), int(rng.integers(1, 60))
    scheduler = Scheduler(engine(n_seq_max=n_seq_max, n_batch=n_batch, n_cells=int(rng.integers(200, 600))))
    made: list[tuple[list[int], Heard, Request]] = []
    for _ in range(200):
        if rng.random() < 0.3:
            base = made[rng.integers(len(made))][0] if made and rng.random() < 0.5 else []
            prompt = base[: rng.integers(0, 60)] + rng.integers(1, N_VOCAB, rng.integers(1, 30)).tolist()
            heard = Heard()
            made.append((prompt, heard, request(prompt, int(rng.integers(1, 30)), heard)))
            scheduler.submit(made[-1][2])
        if made and rng.random() < 0.1:
            scheduler.cancel(made[rng.integers(len(made))][2])
        scheduler.step()
    run(scheduler)
    for prompt, heard, _ in made:
        assert heard.n_ends == 1
        assert heard.error is None
        assert heard.ids == expected(prompt, len(heard.ids))
