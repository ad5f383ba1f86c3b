"""Cells are counted as they lie in memory, whatever was forked, cut and gone on with: held against cells one by one."""

from __future__ import annotations

import random

import pytest

from edgeinfer.kv.cells import Ledger


class Memory:
    """Sequences as lists of cells; a cell is in memory as long as anyone has it."""

    def __init__(self) -> None:
        self.sequences: dict[int, list[object]] = {}

    def cells(self) -> int:
        return len({id(cell) for cells in self.sequences.values() for cell in cells})

    def lengths(self) -> dict[int, int]:
        return {seq: len(cells) for seq, cells in self.sequences.items()}


def test_a_fork_of_a_sequence_that_was_never_begun() -> None:
    """Prompts that share their first token, begun in sequences nobody has used before."""
    ledger = Ledger()
    ledger.fork(0, 1, 1)
    assert ledger.count({0: 50, 1: 60}) == 50 + 60 - 1


@pytest.mark.parametrize("seed", range(50))
def test_as_many_as_there_are(seed: int) -> None:
    draw, ledger, memory = random.Random(seed), Ledger(), Memory()
    memory.sequences = {seq: [] for seq in range(5)}
    for _ in range(60):
        seq, other = draw.sample(range(5), 2)
        held = memory.sequences[seq]
        match draw.randrange(4):
            case 0:  # go on
                held.extend(object() for _ in range(draw.randrange(1, 9)))
            case 1:  # forget
                ledger.begin(seq)
                held.clear()
            case 2 if held:  # cut
                n = draw.randrange(len(held))
                ledger.begin(seq, n)
                del held[n:]
            case 3 if held:
                n = draw.randrange(1, len(held) + 1)
                ledger.fork(seq, other, n)
                memory.sequences[other] = held[:n]
        assert ledger.count(memory.lengths()) == memory.cells()
