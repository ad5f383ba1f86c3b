"""Signs of life: of who sleeps none, of who only looks at a lock now and then some."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from edgeinfer.server.workers.life import signs

SLEEPS = "import sys, time; print(flush=True); time.sleep(600)"
POLLS = "import sys, time; print(flush=True)\nwhile True: time.sleep(0.05)"


@pytest.fixture
def started() -> Iterator[Callable[[str], int]]:
    """Begins a Python process and returns its id once it has begun its work."""
    running: list[subprocess.Popen[bytes]] = []

    def start(source: str) -> int:
        process = subprocess.Popen([sys.executable, "-S", "-c", source], stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_who_sleeps_shows_none(started: Callable[[str], int]) -> None:
    pid = started(SLEEPS)
    before = signs(pid)
    assert len(before) >= 3
    for _ in range(40):  # it may not have fallen asleep yet
        time.sleep(0.5)
        before, now = signs(pid), before
        if before == now:
            return
    raise AssertionError("it never fell silent")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems tell the time of processes in ticks")
def test_who_looks_now_and_then_shows_some(started: Callable[[str], int]) -> None:
    pid = started(POLLS)
    before = signs(pid)
    for _ in range(200):
        time.sleep(0.05)
        if signs(pid) != before:
            return
    raise AssertionError("no sign of life")


def test_of_a_thread_only_its_own_work_counts() -> None:
    end = threading.Event()
    sleeping = threading.Thread(target=end.wait)
    sleeping.start()
    try:
        time.sleep(0.05)
        before, mine = signs(None, sleeping.native_id), signs(None, threading.get_native_id())
        busy = time.monotonic() + 0.1
        while time.monotonic() < busy:
            pass
        assert signs(None, sleeping.native_id) == before
        assert signs(None, threading.get_native_id()) != mine
    finally:
        end.set()
        sleeping.join()


def test_of_nobody_there_are_none() -> None:
    assert signs(2**22 + 1) == signs(2**22 + 1)
