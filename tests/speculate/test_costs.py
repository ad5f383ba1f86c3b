"""What is remembered of costs, by whose they are."""

from __future__ import annotations

import pytest
import scripted_drafts

from edgeinfer import env
from edgeinfer.speculate import costs
from edgeinfer.speculate.costs import ROWS, CostCurve

FLAT, STEEP = scripted_drafts.FLAT, scripted_drafts.STEEP


def test_remembered_and_forgotten_by_the_first_words() -> None:
    costs.remember(FLAT, "llama-1", "this machine", "1 thread")
    costs.remember(STEEP, "llama-1", "this machine", "2 threads")
    costs.remember(FLAT, "llama-12", "this machine", "1 thread")
    assert costs.remembered("llama-1", "this machine") == {"1 thread": FLAT, "2 threads": STEEP}
    assert costs.forget("llama-1", "this machine") is True
    assert costs.forget("llama-1", "this machine") is False
    assert costs.recall("llama-1", "this machine", "1 thread") is None
    assert costs.recall("llama-12", "this machine", "1 thread") == FLAT


@pytest.mark.parametrize(
    "entry",
    [
        "null",
        "[]",
        '{"depths": [1]}',
        '{"depths": [1, 2], "ms": [[1], [2]], "read_ms": 1}',
        f'{{"depths": [1, 2], "ms": [{[1] * 9}, {[1] * 9}], "read_ms": {"9" * 400}}}',
        f'{{"depths": [1, Infinity], "ms": [{[1] * 9}, {[1] * 9}], "read_ms": 1}}',
        f'{{"depths": [1, {"9" * 400}], "ms": [{[1] * 9}, {[1] * 9}], "read_ms": 1}}',
    ],
)
def test_a_damaged_entry_counts_as_none(entry: str) -> None:
    costs.remember(FLAT, "a", "b")
    store = env.cache_dir() / "costs.json"
    store.write_text(f'{{"version": 1, "costs": {{"a c": {entry}}}}}')
    assert costs.recall("a", "c") is None
    assert costs.remembered("a") == {}
    assert costs.forget("a") is True, "it was there, if of no use"


def test_growth_in_passes_of_one_token() -> None:
    assert FLAT.growth(32) == dict.fromkeys(ROWS, 1.0)
    assert STEEP.growth(512) == pytest.approx({n: n for n in ROWS})


def test_rows_beyond_those_measured_are_not_free() -> None:
    """Where 16 rows were measured no dearer than 12."""
    ms = (*STEEP.ms[0][:-1], STEEP.ms[0][-2])
    price = CostCurve((32, 512), (ms, ms), 1.0).at(32)
    assert price(16) == price(12)
    assert price(24) == pytest.approx(1.5 * price(16))


@pytest.mark.parametrize("text", ["", "[" * 100_000, "\0\xff", '{"version": 1, "costs": []}', "[1]"])
def test_a_damaged_file_counts_as_empty(text: str) -> None:
    costs.remember(FLAT, "a")
    store = env.cache_dir() / "costs.json"
    store.write_bytes(text.encode("latin-1"))
    assert costs.recall("a") is None
    costs.remember(STEEP, "a")
    assert costs.recall("a") == STEEP
