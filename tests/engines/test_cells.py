"""Cells of a shared cache: who has which, and who sees which, against the plain definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.engines.base import Slice
from edgeinfer.engines.cells import CellTable
from edgeinfer.errors import EngineError


def tokens(seq: int, n: int, n_past: int) -> Slice:
    return Slice(seq, np.zeros(n, np.int32), n_past)


def test_a_forked_cell_is_free_when_nobody_has_it() -> None:
    table = CellTable(10, 3)
    assert table.place([tokens(0, 6, 0)]).tolist() == [0, 1, 2, 3, 4, 5]
    table.fork(0, 1, 4)
    table.cut(0, 0)
    assert table.n_used == 4
    assert table.place([tokens(1, 2, 4), tokens(2, 4, 0)]).tolist() == [4, 5, 6, 7, 8, 9]
    with pytest.raises(EngineError, match=r"10 of 10 held"):
        table.place([tokens(0, 1, 0)])
    table.cut(2, 0)
    assert table.place([tokens(0, 1, 0)]).tolist() == [6]


def test_placing_goes_on_where_the_slice_begins() -> None:
    table = CellTable(10, 1)
    table.place([tokens(0, 6, 0)])
    table.place([tokens(0, 2, 3)])
    assert table.of(0).tolist() == [0, 1, 2, 3, 4]


@given(st.data(), st.sampled_from([0, 1, 3, 8, 100]))
def test_who_sees_whom(data: st.DataObject, window: int) -> None:
    """After any history of forks and cuts: the cells of the own positions up to the token's, as far as the window."""
    table, lengths = CellTable(400, 4), [0, 0, 0, 0]
    for _ in range(data.draw(st.integers(1, 6))):
        seq, other = data.draw(st.permutations(range(4)))[:2]
        if data.draw(st.booleans()):
            lengths[seq] = data.draw(st.integers(0, lengths[seq]))
            table.cut(seq, lengths[seq])
            if lengths[seq] == 0:
                lengths[seq] = data.draw(st.integers(0, lengths[other]))
                table.fork(other, seq, lengths[seq])
        n = data.draw(st.integers(1, 12))
        table.place([tokens(seq, n, lengths[seq])])
        lengths[seq] += n
    chosen = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
    slices = [tokens(seq, data.draw(st.integers(1, 9)), lengths[seq]) for seq in chosen]
    cells = table.place(slices)
    mask = table.mask(slices, window)
    row = 0
    for part in slices:
        held = table.of(part.seq)
        assert len(held) == part.n_past + len(part.token_ids)
        for i in range(len(part.token_ids)):
            position = part.n_past + i
            first = max(0, position - window + 1) if window else 0
            assert cells[row] == held[position]
            assert set(np.flatnonzero(mask[row] == 0).tolist()) == set(held[first : position + 1].tolist())
            row += 1
    assert mask.shape == (row, mask.shape[1])
    assert set(np.unique(mask)) <= {np.float16(0), np.float16(-np.inf)}
