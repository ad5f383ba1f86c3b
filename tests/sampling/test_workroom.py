"""The place where grammars compile: results, errors, time, and what a runaway may cost."""

import sys
import threading
import time

import pytest

from edgeinfer.errors import GrammarError
from edgeinfer.sampling import workroom


def test_results_and_errors_come_back() -> None:
    assert workroom.run(lambda: 42, "it") == 42
    empty: dict[str, int] = {}
    with pytest.raises(KeyError, match="gone"):
        workroom.run(lambda: empty["gone"], "it")


def test_there_is_room_for_deep_recursion_and_the_default_stays() -> None:
    before = threading.stack_size()
    limit = sys.getrecursionlimit()

    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + max(depth(n - 1), 0)  # through C on old Pythons

    try:
        sys.setrecursionlimit(60_000)
        assert workroom.run(lambda: depth(50_000), "it") == 50_000
    finally:
        sys.setrecursionlimit(limit)
    assert threading.stack_size() == before


def test_time_is_limited_and_runaways_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workroom, "TIME_S", 0.05)
    release = threading.Event()
    try:
        for _ in range(2):
            with pytest.raises(GrammarError, match=r"the thing takes longer than 0\.05 s"):
                workroom.run(release.wait, "the thing")
        with pytest.raises(GrammarError, match="waited"):
            workroom.run(lambda: 1, "the thing")
    finally:
        release.set()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            assert workroom.run(lambda: 1, "the thing") == 1
            break
        except GrammarError:
            continue
    else:
        pytest.fail("the slots were not given back")
