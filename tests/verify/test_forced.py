"""Reading a given text: which token is asked for after which, in what windows, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scripted_sides import Row, ScriptedSide, row_of

from edgeinfer.errors import NumericError, UsageError
from edgeinfer.verify.forced import logit_rows, windows
from edgeinfer.verify.reading import read
from edgeinfer.verify.recording import Recording
from edgeinfer.verify.scope import Scope, Task, shipped_prompts, shipped_text

IDS = np.arange(10, 30, dtype=np.int32)


def test_every_token_is_followed_by_the_next() -> None:
    found = windows(IDS, 100, 8, None)
    assert [len(window) for window in found] == [8, 8, 3]
    assert np.concatenate([window.inputs for window in found]).tolist() == IDS[:-1].tolist()
    assert np.concatenate([window.targets for window in found]).tolist() == IDS[1:].tolist()


def test_with_a_beginning_of_its_own_each_window_loses_none() -> None:
    found = windows(IDS, 100, 8, 1)
    assert [window.inputs[0] for window in found] == [1, 1, 1]
    assert np.concatenate([window.targets for window in found]).tolist() == IDS.tolist()
    for window in found:
        assert window.inputs[1:].tolist() == window.targets[:-1].tolist()


@pytest.mark.parametrize("bos", [None, 1])
def test_no_more_positions_than_asked_for(bos: int | None) -> None:
    assert [len(window) for window in windows(IDS, 11, 8, bos)] == [8, 3]
    with pytest.raises(UsageError, match="too few"):
        windows(IDS[:1], 10, 8, bos)


@pytest.mark.parametrize(("block_size", "n_batch"), [(1, 512), (1, 5), (48, 512), (64, 64)])
def test_rows_are_those_of_the_text_however_it_is_cut(block_size: int, n_batch: int) -> None:
    text = windows(np.arange(150, dtype=np.int32), 149, 100, None)
    side = ScriptedSide(block_size=block_size, n_batch=n_batch)
    heard = []
    with side() as model:
        rows = np.concatenate(list(logit_rows(model.engine, text, lambda *done: heard.append(done))))
        assert model.engine.length(0) == 0
    expected = [row_of(window.inputs[: i + 1].tolist(), 259) for window in text for i in range(len(window))]
    assert np.array_equal(rows, np.stack(expected))
    assert heard[-1] == (149, 149)
    assert all(sum(len(part.token_ids) for part in call) <= n_batch for call in side.engines[0].calls)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named_by_its_place(wrong: float) -> None:
    def spoiled(tokens: Sequence[int], row: Row) -> Row:
        row[7] = wrong if len(tokens) == 71 else row[7]
        return row

    text = windows(np.arange(150, dtype=np.int32), 149, 100, None)
    with ScriptedSide(spoiled)() as model, pytest.raises(NumericError, match=r"position 70 of window 0 \(1 of 259\)"):
        list(logit_rows(model.engine, text))


def task(n_positions: int = 90, n_window: int = 50) -> Task:
    with ScriptedSide()() as model:
        return Task.of(Scope(shipped_text(), n_positions=n_positions, n_window=n_window), model.tokenizer)


def test_positions_of_rows() -> None:
    made = task()
    places = [(made.position(row).window, made.position(row).index) for row in (0, 49, 50, 89)]
    assert places == [(0, 0), (0, 49), (1, 0), (1, 39)]
    assert np.flatnonzero(~made.inner).tolist() == [0, 50]
    with ScriptedSide()() as model:
        assert model.tokenizer.decode(made.before(52, 10)) == shipped_text()[50:53]


@pytest.mark.parametrize("wide_bytes", [1 << 30, 0])
def test_a_recording_against_itself_is_nothing_apart(wide_bytes: int) -> None:
    made = task()
    with Recording(len(made), 259, wide_bytes=wide_bytes) as recording:
        assert recording.precise == (wide_bytes > 0)
        with ScriptedSide()() as model:
            first = read(model.engine, made, lambda *_: None, keep=recording)
            again = read(model.engine, made, lambda *_: None, against=recording)
        assert again.distances is not None
        assert again.distances.kl.max() == again.distances.difference.max() == 0.0
        assert np.array_equal(first.logprobs, again.logprobs)
        with ScriptedSide(lambda _tokens, row: row * np.float32(1.01))() as model:
            other = read(model.engine, made, lambda *_: None, against=recording)
        assert other.distances is not None
        assert 1e-5 < other.distances.kl.mean() < 1e-2


def test_half_precision_costs_next_to_nothing() -> None:
    made, kl = task(), []
    for wide_bytes in (1 << 30, 0):
        with Recording(len(made), 259, wide_bytes=wide_bytes) as recording:
            with ScriptedSide()() as model:
                read(model.engine, made, lambda *_: None, keep=recording)
            with ScriptedSide(lambda _tokens, row: row * np.float32(1.05))() as model:
                found = read(model.engine, made, lambda *_: None, against=recording).distances
            assert found is not None
            kl.append(found.kl.mean())
    assert kl[0] != kl[1]
    assert kl[1] == pytest.approx(kl[0], abs=2e-6)


def test_a_recording_ends_where_it_ends_and_does_not_fill_the_disk() -> None:
    with Recording(2, 4) as recording:
        recording.append(np.zeros((2, 4), np.float32))
        recording.rewind()
        assert recording.read(2).shape == (2, 4)
        with pytest.raises(UsageError, match="only 2 were recorded"):
            recording.read(1)
    with pytest.raises(UsageError, match=r"MiB on disk, and .* take fewer positions"):
        Recording(1 << 40, 1 << 18)


def test_what_ships_is_long_and_of_many_kinds() -> None:
    text, prompts = shipped_text(), shipped_prompts()
    assert len(text) > 8000
    assert {"def ", "SELECT", "°C", "Das ", "Старый", "春", "في", "🚲"} <= {
        part for part in ("def ", "SELECT", "°C", "Das ", "Старый", "春", "في", "🚲") if part in text
    }
    assert len(set(prompts)) == len(prompts) >= 30
