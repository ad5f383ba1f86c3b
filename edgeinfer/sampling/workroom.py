"""A place to compile other people's grammars in: a thread with a deep stack, limited in time and in number.

llguidance compiles by recursion over rules and references. A chain of a few thousand overflows an ordinary thread's
stack, and that ends the process. 256 KiB of source cannot nest deeper than the stack made here; its pages cost nothing
until they are used.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from edgeinfer import process
from edgeinfer.errors import EngineError, GrammarError

T = TypeVar("T")

TIME_S = 10.0
_STACK_BYTES = (256 if sys.maxsize > 2**32 else 64) << 20
# Native code cannot be stopped from outside. A compilation that runs out of time goes on in its daemon thread and keeps
# its slot, so that at most this many cores are ever lost to hostile grammars.
_SLOTS = threading.BoundedSemaphore(2)
_STACK_SIZE = threading.Lock()  # threading.stack_size() is one setting for the process


def _renew() -> None:
    global _SLOTS, _STACK_SIZE
    _SLOTS, _STACK_SIZE = threading.BoundedSemaphore(2), threading.Lock()


process.in_forked_child(_renew)


def run(work: Callable[[], T], what: str) -> T:
    """The result of ``work``, or what it raises. Raises `GrammarError`, naming ``what``, when it takes longer than
    `TIME_S`."""
    if not _SLOTS.acquire(timeout=TIME_S):
        raise GrammarError(f"{what} waited {TIME_S:g} s for other grammars to compile; try again later")
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def body() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as error:  # handed to the caller, whatever it is: a Rust panic is not an Exception
            outcome.put((None, error))
        finally:
            _SLOTS.release()

    _start(body, what)
    try:
        result, error = outcome.get(timeout=TIME_S)
    except queue.Empty:
        raise GrammarError(f"{what} takes longer than {TIME_S:g} s to compile; simplify it") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only if T is


def _start(body: Callable[[], None], what: str) -> None:
    with _STACK_SIZE:
        before = threading.stack_size(_STACK_BYTES)
        try:
            threading.Thread(target=body, name="edgeinfer-grammar", daemon=True).start()
        except RuntimeError as error:
            _SLOTS.release()
            raise EngineError(f"no thread with {_STACK_BYTES >> 20} MiB of stack to compile {what}: {error}") from error
        finally:
            threading.stack_size(before)
