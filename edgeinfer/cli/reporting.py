"""What commands that measure and judge share: limits that may be off, and files that a report is written to."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

__all__ = ["MOST_TEXT_BYTES", "TEXT_FILE", "limit", "output_file", "write"]

TEXT_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
MOST_TEXT_BYTES = 64 << 20


class _Output(click.Path):
    """A file to be written at the end of long work: what forbids that is said at its beginning."""

    def __init__(self, *suffixes: str) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self._suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() not in self._suffixes:
            self.fail(f"{path} does not end in {' or '.join(self._suffixes)}", param, ctx)
        if not path.absolute().parent.is_dir():
            self.fail(f"there is no folder {path.parent}", param, ctx)
        return path


def output_file(*suffixes: str) -> click.Path:
    """The type of a flag that names a file to write, which must have one of these suffixes."""
    return _Output(*suffixes)


def limit(most: float = math.inf) -> Any:
    """The type of a flag that is a number from 0, or ``off``, which becomes None."""

    def convert(value: Any) -> float | None:
        if str(value).strip().lower() in ("off", "none"):
            return None
        try:
            number = float(value)
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is neither a number nor off") from error
        if not 0 <= number <= most:
            raise click.BadParameter(
                f"{value!r} must be at least 0" + (f" and at most {most:g}" if most < math.inf else "")
            )
        return number

    return convert


def write(path: Path, data: bytes | str) -> None:
    """Write a report, readable by everybody as files usually are, and say where."""
    from edgeinfer import files
    from edgeinfer.cli.loading import notice

    files.atomic_write(path.absolute(), data, mode=0o644)
    notice(f"wrote {path}")
