"""How a batch job is shown while it runs: a bar on a terminal, a line now and then elsewhere; and what an estimate
says."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.loading import notice
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.batch import Progress
    from edgeinfer.batch.estimate import Estimate

__all__ = ["Lines", "duration", "print_estimate", "watching"]

_LINE_S = 30.0


def duration(seconds: float | None) -> str:
    """``1:02:03``; a dash where nobody knows."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class Lines:
    """For logs. ``last``: what was shown last."""

    def __init__(self) -> None:
        self.last: Progress | None = None
        self._told_at = time.monotonic()

    def show(self, now: Progress) -> None:
        self.last = now
        if time.monotonic() - self._told_at >= _LINE_S:
            self._told_at = time.monotonic()
            rows = f"{now.n_done + now.n_failed}" + (f" of {now.n_rows}" if now.n_rows is not None else "")
            self.note(
                f"{rows} rows, {now.n_failed} failed, {now.generated_tps:.1f} tokens/s, {duration(now.eta_s)} left"
            )

    def note(self, line: str) -> None:
        notice(line)

    def close(self) -> None:
        pass


class _Bar:
    """For people."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        from edgeinfer.cli.progress import stderr

        self.last: Any = None
        text = TextColumn("{task.description}", markup=False)
        self._bar = Progress(text, BarColumn(), TextColumn("{task.fields[said]}", markup=False), console=stderr())
        self._task = self._bar.add_task("rows", total=None, said="")
        self._bar.start()

    def show(self, now: Progress) -> None:
        self.last = now
        n_ended = now.n_done + now.n_failed
        said = (
            f"{n_ended}/{'?' if now.n_rows is None else now.n_rows}  {now.generated_tps:.1f} tokens/s  "
            f"{duration(now.eta_s)} left  {now.n_failed} failed"
        )
        self._bar.update(self._task, completed=n_ended, total=now.n_rows, said=said)

    def note(self, line: str) -> None:
        self._bar.console.print(f"edgeinfer: {printable(line)}", markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


@contextlib.contextmanager
def watching() -> Iterator[Lines | _Bar]:
    """Shows a job until the block ends, whatever ends it."""
    view = _Bar() if sys.stderr.isatty() else Lines()
    try:
        yield view
    finally:
        view.close()


def print_estimate(found: Estimate) -> None:
    """As plain lines on standard output."""
    bad = f", {found.n_bad} of them bad (the first: {printable(found.first_problems[0])})" if found.n_bad else ""
    click.echo(f"rows      {found.n_rows}{bad}")
    click.echo(
        f"tokens    {found.n_prompt} of prompts, {found.n_prefilled} of these to compute; {found.n_generated} generated"
    )
    click.echo(f"time      {duration(3600 * found.hours)} ({found.hours:.2f} hours), {found.n_places} rows at once")
    if found.energy_wh is not None:
        click.echo(f"energy    {found.energy_wh:.1f} Wh, of the whole processor")
    else:
        click.echo(f"energy    unknown: {found.energy_why_not}")
    click.echo(f"measured on {found.n_sampled} rows")
