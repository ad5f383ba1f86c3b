"""How a download, or a long look at a file, is shown: a bar on a terminal, a line now and then elsewhere. Always on
stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.catalog import Progress

__all__ = ["download_progress", "size"]

_LINE_S = 10.0


def size(n_bytes: int) -> str:
    """``98 MB``: decimal, as disks and downloads are counted."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


@contextlib.contextmanager
def download_progress(what: str = "") -> Iterator[Progress]:
    """A `Progress` for `catalog.pull`, `ensure` and `verify`. Shows nothing until something happens."""
    shown = _Bar(what) if sys.stderr.isatty() else _Lines(what)
    try:
        yield shown
    finally:
        shown.close()


class _Lines:
    """For logs: a line every ten seconds, and at the end."""

    def __init__(self, what: str) -> None:
        self._what = f"{what}: " if what else ""
        self._last = time.monotonic()
        self._told = -1

    def update(self, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        over = done_bytes >= total_bytes
        if done_bytes != self._told and (over or now - self._last >= _LINE_S):
            self._last, self._told = now, done_bytes
            self.note(f"{size(done_bytes)} of {size(total_bytes)} ({100 * done_bytes // max(total_bytes, 1)} %)")

    def note(self, text: str) -> None:
        click.echo(self._what + printable(text), err=True)

    def close(self) -> None:
        pass


class _Bar:
    """For people."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None
        self._task: Any = None

    def _start(self) -> Any:
        if self._bar is None:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.progress import TransferSpeedColumn as Speed

            from edgeinfer.cli.progress import stderr

            text = TextColumn("{task.description}", markup=False)
            columns = (text, BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=stderr(), transient=True)
            self._bar.start()
        return self._bar

    def update(self, done_bytes: int, total_bytes: int) -> None:
        bar = self._start()
        if self._task is None:
            self._task = bar.add_task(self._what or "downloading", total=total_bytes, completed=done_bytes)
        bar.update(self._task, completed=done_bytes, total=total_bytes)

    def note(self, text: str) -> None:
        line = (f"{self._what}: " if self._what else "") + printable(text)
        if self._bar is None:
            click.echo(line, err=True)
        else:
            self._bar.console.print(line, markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None  # another may be shown meanwhile, and this one again
