"""States that leave memory and come back: through the scheduler, over the scripted engine and a real store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from kv_states import MODEL, OTHER, quiet_store

from edgeinfer.core import FinishReason, GenerationStats, SamplingParams
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.errors import EdgeInferError, FormatError
from edgeinfer.kv import Shelf
from edgeinfer.kv.fingerprint import Fingerprint
from edgeinfer.kv.store import Store
from edgeinfer.loop import EngineLoop
from edgeinfer.request import Request
from edgeinfer.sampling import Sampled, Sampler

N_CTX = 1024
STEP_S = 0.0001  # a prompt takes as long as with a small model: reading a state back is quicker


def next_token(tokens: Sequence[int]) -> int:
    value = 7
    for token in tokens:
        value = (value * 31 + token) % 65521
    return 1 + value % 255


def ids(n: int, seed: int) -> list[int]:
    made: list[int] = np.random.default_rng(seed).integers(1, 256, n).tolist()
    return made


class Heard:
    """A sink that can be waited for."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.stats = GenerationStats()
        self.ended = threading.Event()
        self.error: EdgeInferError | None = None

    def token(self, sampled: Sampled) -> bool:
        self.ids.append(sampled.token_id)
        return False

    def done(self, _reason: FinishReason, stats: GenerationStats) -> None:
        self.stats = stats
        self.ended.set()

    def failed(self, error: EdgeInferError) -> None:
        self.error = error
        self.ended.set()


class Model:
    """An engine with a shelf; every instance is a new process as far as memory goes."""

    def __init__(
        self,
        store: Store,
        said: Callable[[str], None],
        identity: Fingerprint | Callable[[], Fingerprint] = MODEL,
        *,
        engine: ScriptedEngine | None = None,
        n_parallel: int = 1,
        close_s: float = 10.0,
    ) -> None:
        self.engine = engine or ScriptedEngine(next_token, n_ctx=N_CTX, n_seq_max=4, step_s=STEP_S)
        whole = not self.engine.rewinds
        self.shelf = Shelf(
            store, identity, room_bytes=4 * N_CTX, token_bytes=4, whole=whole, said=said, close_s=close_s
        )
        self.loop = EngineLoop(self.engine, n_parallel=n_parallel, shelf=self.shelf)

    def ask(self, prompt: list[int], n: int = 5) -> Heard:
        heard = Heard()
        tokens = np.array(prompt, np.int32)
        sampler = Sampler(SamplingParams(temperature=0.0), 256, tokens)
        self.loop.submit(Request(tokens, sampler, heard, n_ctx=N_CTX, max_tokens=n, eog_ids=[0]))
        assert heard.ended.wait(20)
        assert heard.error is None
        answer = list(prompt)
        for _ in range(n):
            answer.append(next_token(answer))
        assert heard.ids == answer[len(prompt) :]
        return heard


@pytest.fixture
def open_model(store: Store, said: list[str]) -> Iterator[Callable[..., Model]]:
    made: list[Model] = []

    def opened(*args: object, **settings: object) -> Model:
        for model in made:
            model.loop.close()
        made.append(Model(store, said.append, *args, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield opened
    for model in made:
        model.loop.close()


Opens = Callable[..., Model]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_conversation_goes_on_after_a_restart(open_model: Opens, said: list[str]) -> None:
    prompt = ids(300, 1)
    first = open_model().ask(prompt)
    turn = [*prompt, *first.ids, 5, 6]
    second = open_model(n_parallel=3).ask(turn)
    assert second.stats.n_restored == second.stats.n_reused == 304  # all but the last token, which was not computed
    assert second.stats.n_prefilled == 3
    third = open_model().ask([*turn[:200], 9, 9])  # cut midway
    assert third.stats.n_restored == 200
    assert said == []


def test_it_is_saved_while_nobody_asks(open_model: Opens, store: Store) -> None:
    """Not only when the model is closed: a kill comes unannounced."""
    model = open_model()
    model.ask(ids(300, 2))
    wait_for(lambda: store.stats().n_entries == 1)
    n_saves = store.stats().newest_use
    model.ask(ids(300, 2))  # nothing new
    model.ask([*ids(300, 2), 4])
    model.loop.close()
    assert store.stats().n_entries == 1
    assert n_saves is not None


def test_what_is_evicted_is_saved(open_model: Opens, store: Store) -> None:
    """Never idle: whatever leaves memory goes to disk while the writer has room."""
    engine = ScriptedEngine(next_token, n_ctx=N_CTX, n_seq_max=1, step_s=STEP_S)
    model = open_model(engine=engine)
    model.ask(ids(300, 3))
    model.ask(ids(300, 4))
    wait_for(lambda: store.stats().n_entries == 2)
    assert model.ask([*ids(300, 3), 8]).stats.n_restored == 300


def test_a_longer_prefix_in_memory_is_preferred(open_model: Opens) -> None:
    open_model().ask(ids(300, 5))
    model = open_model()
    assert model.ask([*ids(300, 5), *ids(100, 6)]).stats.n_restored == 300
    again = model.ask([*ids(300, 5), *ids(100, 6), 3])
    assert (again.stats.n_reused, again.stats.n_restored) == (400, 0)


def test_few_tokens_are_not_worth_a_file(open_model: Opens, store: Store) -> None:
    model = open_model()
    model.ask(ids(40, 7))
    model.ask([*ids(40, 7), *ids(10, 8)])
    model.loop.close()
    assert store.stats().n_entries == 0


def test_rows_with_one_prefix_leave_one_state(open_model: Opens, store: Store) -> None:
    model = open_model()
    for i in range(6):
        model.ask([*ids(300, 9), *ids(20, 10 + i)])
        wait_for(lambda: store.stats().n_entries and not store.stats().writing_bytes)
    model.loop.close()
    assert store.stats().n_entries == 1


def test_another_fingerprint_is_a_miss(open_model: Opens) -> None:
    open_model().ask(ids(300, 11))
    assert open_model(OTHER).ask([*ids(300, 11), 3]).stats.n_reused == 0


def test_until_the_weights_are_known_nothing_is_found(open_model: Opens, store: Store) -> None:
    open_model().ask(ids(300, 12))
    known = threading.Event()

    def slowly() -> Fingerprint:
        known.wait(20)
        return MODEL

    model = open_model(slowly)
    assert model.ask([*ids(300, 12), 3]).stats.n_reused == 0
    known.set()
    wait_for(lambda: model.shelf.identified)
    model.ask([*ids(300, 12), 3, *ids(200, 13)])
    wait_for(lambda: any(line.n_tokens > 500 for line in store.ls()))


def test_a_hash_that_cannot_be_had_is_said_and_leaves_answers_alone(open_model: Opens, said: list[str]) -> None:
    def fails() -> Fingerprint:
        raise OSError("the disk is gone")

    model = open_model(fails)
    model.ask(ids(300, 14))
    model.loop.close()
    assert said == ["kv cache: nothing is saved or found: the disk is gone"]


def test_a_state_that_the_engine_refuses_is_a_miss_once(open_model: Opens, said: list[str]) -> None:
    open_model().ask(ids(300, 15))

    class Picky(ScriptedEngine):
        n_tried = 0

        def import_sequence(self, _seq: int, _state: memoryview, _n_tokens: int) -> None:
            self.n_tried += 1
            raise FormatError("not one of mine")

    engine = Picky(next_token, n_ctx=N_CTX, n_seq_max=1, step_s=STEP_S)
    model = open_model(engine=engine)
    for last in (3, 4):
        model.ask([*ids(300, 15), last])
        model.ask(ids(100, 16 + last))
    model.loop.close()
    assert engine.n_tried == 1
    assert len(said) == 1
    assert "not one of mine" in said[0]


def test_a_damaged_file_is_a_miss_and_said_once(open_model: Opens, folder: Path, said: list[str]) -> None:
    open_model().ask(ids(300, 17))
    open_model()  # closes the first, which saves
    (file,) = folder.glob("*.kv")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    model = open_model()
    assert model.ask([*ids(300, 17), 3]).stats.n_reused == 0
    assert len(said) == 1
    assert "checksum" in said[0]


def test_closing_waits_for_the_disk_but_not_for_ever(folder: Path, said: list[str]) -> None:
    stuck = threading.Event()

    class Slow(Store):
        def save(self, *_args: object, **_options: object) -> bool:
            return stuck.wait(20)

    store = Slow(folder, said=said.append, cap_bytes=1 << 30, keep_free_bytes=0)
    model = Model(store, said.append, close_s=0.3)
    model.ask(ids(300, 18))
    begin = time.monotonic()
    model.loop.close()
    assert time.monotonic() - begin < 5
    assert said == ["kv cache: writing did not end in 0.3 s: 1 saved states were given up"]
    stuck.set()


def test_state_that_cannot_be_cut_comes_back_whole(open_model: Opens) -> None:
    def recurrent() -> ScriptedEngine:
        engine = ScriptedEngine(next_token, n_ctx=N_CTX, n_seq_max=2, step_s=STEP_S)
        engine.rewinds = False
        return engine

    prompt = ids(300, 19)
    first = open_model(engine=recurrent()).ask(prompt)
    turn = [*prompt, *first.ids, 3]
    assert open_model(engine=recurrent()).ask(turn).stats.n_restored == 304
    assert open_model(engine=recurrent()).ask(prompt[:200]).stats.n_reused == 0
    # Both turns are there: one that begins with the other has not replaced it.
    assert open_model(engine=recurrent()).ask([*turn, *ids(99, 20)]).stats.n_restored >= 304


@pytest.mark.parametrize("seed", range(3))
def test_random_restarts(folder: Path, said: list[str], seed: int) -> None:
    """Conversations that grow, fork and are cut, on engines of different sizes that come and go: every answer is what
    it would be alone, and most of what was computed once is not computed again."""
    rng = np.random.default_rng(seed)
    talks = [ids(200, 100 + seed)]
    n_asked = n_computed = 0
    for _ in range(6):
        n_parallel = int(rng.integers(1, 4))
        n_seq_max = n_parallel + int(rng.integers(0, 4))
        engine = ScriptedEngine(
            next_token,
            n_ctx=N_CTX,
            n_seq_max=n_seq_max,
            n_cells=int(rng.integers(N_CTX, 3 * N_CTX)),
            step_s=STEP_S,
            block_size=int(rng.choice([1, 64])),
        )
        model = Model(quiet_store(folder, said.append), said.append, engine=engine, n_parallel=n_parallel)
        for _ in range(6):
            talk = talks[rng.integers(len(talks))]
            talk = talk[: rng.integers(100, len(talk) + 1)] + ids(int(rng.integers(1, 80)), int(rng.integers(1 << 30)))
            talk = talk[:900]
            heard = model.ask(talk, 3)
            talks.append([*talk, *heard.ids])
            n_asked += heard.stats.n_prompt
            n_computed += heard.stats.n_prefilled
        model.loop.close()
    assert n_computed < 0.7 * n_asked
    assert said == []
