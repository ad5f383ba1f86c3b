"""Waiting with an end: nothing is lost when a result, a cancellation and the end of the time meet."""

from __future__ import annotations

import asyncio

import pytest

from edgeinfer.server.waiting import in_time


def test_a_result_and_an_error() -> None:
    async def good() -> int:
        return 5

    async def bad() -> int:
        raise ValueError("no")

    assert asyncio.run(in_time(good(), 10)) == 5
    with pytest.raises(ValueError, match="no"):
        asyncio.run(in_time(bad(), 10))


def test_too_late() -> None:
    ended = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError):
        asyncio.run(in_time(slow(), 0.01))
    assert ended == [True]


@pytest.mark.parametrize("n_turns", range(8))
def test_a_cancellation_is_never_lost(n_turns: int) -> None:
    """A loop of short waits, as a stream is, ends whenever it is cancelled (bpo-37658)."""

    async def main() -> None:
        async def short() -> None:
            await asyncio.sleep(0)

        async def stream() -> None:
            for _ in range(500):
                await in_time(short(), 60)

        for _ in range(3):
            task = asyncio.ensure_future(stream())
            for _ in range(n_turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=10)
            assert task.cancelled()

    asyncio.run(main())
