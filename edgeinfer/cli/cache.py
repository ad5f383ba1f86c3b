"""``edgeinfer cache``: the saved KV states on this machine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from edgeinfer.cli.flags import Group
from edgeinfer.cli.options import debug_flag, json_flag
from edgeinfer.cli.pulling import size
from edgeinfer.cli.table import print_table
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.kv.store import Store

__all__ = ["command"]


@click.group("cache", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List, measure and clear the saved states of conversations (their KV cache).

    They save reading a prompt again after a restart. All of them can be made anew: clearing costs time only.
    """


def _store() -> Store:
    from edgeinfer.kv.store import Store

    return Store(said=lambda line: click.echo(printable(line), err=True))


def _when(seconds: float | None) -> str:
    """Local date and time; a number from a file may be no time at all."""
    import datetime

    if seconds is None:
        return "never"
    try:
        return datetime.datetime.fromtimestamp(seconds).isoformat(" ", "minutes")
    except (ValueError, OverflowError, OSError):
        return "unknown"


@command.command("ls")
@json_flag
@debug_flag
def list_states(as_json: bool) -> None:
    """Every saved state, the last used first. Files that are damaged are said and removed."""
    import json
    import sys

    store = _store()
    entries = store.ls()
    if as_json:
        rows = [dataclasses.asdict(line) for line in entries]
        click.echo(json.dumps({"folder": str(store.folder), "entries": rows}))
        return
    table = [
        (_when(line.used), f"{line.n_tokens:,}", size(line.n_bytes), line.label or line.fingerprint) for line in entries
    ]
    print_table(("last used", "tokens", "size", "of"), table, boxed=sys.stdout.isatty())
    click.echo(f"cache folder: {printable(str(store.folder))}", err=True)


@command.command(short_help="How many states there are, and the disk they take.")
@json_flag
@debug_flag
def stats(as_json: bool) -> None:
    """How many states there are, how much disk they take, and how old they are."""
    import json

    found = _store().stats()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
        return
    rows = [
        ("folder", found.folder),
        ("states", f"{found.n_entries:,}"),
        ("size", size(found.n_bytes)),
        ("being written", size(found.writing_bytes)),
        ("settings", f"{found.n_fingerprints:,} different (model, engine, kernels, KV type, ...)"),
        ("oldest use", _when(found.oldest_use)),
        ("newest use", _when(found.newest_use)),
    ]
    for label, text in rows:
        click.echo(f"{label + ':':15}{printable(text)}")


@command.command()
@json_flag
@debug_flag
def clear(as_json: bool) -> None:
    """Remove all saved states. Sessions keep their text."""
    import json

    n_entries, n_bytes = _store().clear()
    if as_json:
        click.echo(json.dumps({"removed": n_entries, "bytes": n_bytes}))
    else:
        click.echo(f"removed {n_entries:,} saved states, {size(n_bytes)}")
