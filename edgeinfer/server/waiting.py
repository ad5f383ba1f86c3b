"""Waiting with an end. `asyncio.wait_for` will not do: before Python 3.12 a cancellation that meets its result is lost,
and whoever left is served on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["in_time"]

T = TypeVar("T")


async def in_time(work: Awaitable[T], seconds: float) -> T:
    """What ``work`` gives. Raises `TimeoutError` when that takes longer; then, and when the waiting is cancelled, the
    work is cancelled too and has ended."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
