"""What the terminal shows while something takes long: on stderr, only on a terminal, gone when done."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgeinfer import env

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["status", "stderr", "stdout"]


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
