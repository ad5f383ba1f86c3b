"""What the terminal shows while something takes long: on stderr, only on a terminal, gone when done."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from edgeinfer import env
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["bar", "status", "stderr", "stdout"]


def stdout() -> Console:
    """For answers and tables. Plain and as wide as it takes where it is not a terminal."""
    from rich.console import Console

    return Console(no_color=env.no_color(), highlight=False, width=None if sys.stdout.isatty() else 120)


def stderr() -> Console:
    """For everything else."""
    from rich.console import Console

    return Console(stderr=True, no_color=env.no_color(), highlight=False)


@contextlib.contextmanager
def status(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner that says what goes on; the function it gives adds a detail."""
    if not sys.stderr.isatty():
        yield lambda _detail: None
        return
    with stderr().status(f"{what} …") as spinner:
        yield lambda detail: spinner.update(f"{what}: {detail} …")


class Told(Protocol):
    """Hears what is being done, how far it is, and of how much; 0 of 0: nobody knows."""

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None: ...


def _untold(what: str, done: int = 0, total: int = 0) -> None:
    pass


@contextlib.contextmanager
def bar() -> Iterator[Told]:
    """A progress bar for work in several parts, each shown by itself."""
    if not sys.stderr.isatty():
        yield _untold
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), transient=True) as shown:
        task, part = shown.add_task(""), ""

        def tell(what: str, done: int = 0, total: int = 0) -> None:
            nonlocal task, part
            if what != part:  # a task of its own, so that the time that is left is of this part
                shown.remove_task(task)
                task, part = shown.add_task(printable(what), total=total or None), what
            shown.update(task, completed=done)

        yield tell
