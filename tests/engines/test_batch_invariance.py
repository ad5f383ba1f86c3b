"""With our kernels a token's logits are the same bits in any company: whatever the batch, the threads, the cells and
the way that its prefix came about."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kernels_parity
import numpy as np
import pytest
from kernels_parity import N_TOKENS, Logits, Session, forked, in_company, into_holes, restored, sliced

from edgeinfer import kernels

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not kernels.expected().active, reason=f"without our kernels: {kernels.expected().why}"),
]


@dataclass(frozen=True)
class Prepared:
    session: Session
    ids: list[int]
    reference: Logits
    """Of one batch of 256 tokens."""

    def matches(self, logits: Logits) -> bool:
        return np.array_equal(logits, self.reference[: len(logits)])


@pytest.fixture(scope="module", params=["f16", "q8_0"])
def prepared(smollm2: Path, request: pytest.FixtureRequest) -> Iterator[Prepared]:
    report = kernels.install()
    assert report.active, report.why
    session = Session(smollm2, request.param)
    ids = session.tokenize(Path(kernels_parity.__file__).read_text(encoding="utf-8"))[: N_TOKENS + 16]
    yield Prepared(session, ids, session.forward([(0, ids[:N_TOKENS], 0)]))
    session.close()


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def same(prepared: Prepared, request: pytest.FixtureRequest) -> Prepared:
    prepared.session.threads(request.param)
    return prepared


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 16])
def test_however_many_at_a_time(same: Prepared, m: int) -> None:
    assert same.matches(sliced(same.session, same.ids, m, 64))


@pytest.mark.parametrize("m", [33, 100, 256])
def test_however_a_prompt_is_cut(same: Prepared, m: int) -> None:
    assert same.matches(sliced(same.session, same.ids, m, N_TOKENS))


def test_beside_seven_others(same: Prepared) -> None:
    assert same.matches(in_company(same.session, same.ids, 32, before=77))


def test_in_holes_that_a_released_sequence_left(same: Prepared) -> None:
    assert same.matches(into_holes(same.session, same.ids, 64))


def test_behind_a_shared_prefix(same: Prepared) -> None:
    assert same.matches(forked(same.session, same.ids, 56))


def test_after_its_state_was_saved_and_read_back(same: Prepared) -> None:
    assert same.matches(restored(same.session, same.ids, 64))


STOCK = """
import sys
import numpy as np
from kernels_parity import Session, sliced
session, ids = Session(sys.argv[1]), list(range(1000, 1064))
one_by_one = sliced(session, ids, 1, 64)
session.clear()
print(np.array_equal(one_by_one, session.forward([(0, ids, 0)])))
"""


def test_stock_would_fail_these(smollm2: Path) -> None:
    """So the tests above can fail. In a process of its own, where attention is llama.cpp's as well."""
    command = [sys.executable, "-c", STOCK, str(smollm2)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(kernels_parity.__file__)])}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False"]
