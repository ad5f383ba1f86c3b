"""``edgeinfer doctor``: what this machine is, what it can do, and what is missing and how to get it."""

from __future__ import annotations

import re
from typing import Any

import click

from edgeinfer.cli.flags import Command
from edgeinfer.cli.options import debug_flag, json_flag

__all__ = ["command"]

Rows = list[tuple[str, str]]
NOT_USABLE = 5


@click.command("doctor", cls=Command)
@json_flag
@debug_flag
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what this machine is, what it can do, and what is missing. Exit code 0 when models can run, else 5."""
    import json
    import sys

    from edgeinfer.cli.checkup import examine
    from edgeinfer.cli.progress import status

    with status("measuring"):
        facts = examine()
    if as_json:
        click.echo(json.dumps(facts))
    elif sys.stdout.isatty():
        _print_table(sections(facts))
    else:
        click.echo(plain(sections(facts)))
    if not facts["usable"]:
        ctx.exit(NOT_USABLE)


def sections(facts: dict[str, Any]) -> dict[str, Rows]:
    """The facts in words: title -> (label, text)."""
    return {
        "machine": _machine(facts),
        "engines": _engines(facts),
        "libraries": [_library(entry) for entry in facts["libraries"]],
        "models": [row for entry in facts["models"] for row in _model(entry)],
        "folders and settings": _settings(facts),
        "missing": [(entry["what"], entry["how"]) for entry in facts["missing"]],
    }


def _machine(facts: dict[str, Any]) -> Rows:
    cpu, memory, power = facts["cpu"], facts["memory"], facts["power"]
    n_measured = _threads(cpu["n_threads_measured"])
    rows = [
        ("edgeinfer", f"{facts['edgeinfer']} on Python {facts['python']}, {facts['system']}"),
        ("processor", f"{cpu['model']} ({cpu['architecture']})"),
        ("cores", _cores(cpu)),
    ]
    if cpu["features"]:
        rows.append(("instruction sets", ", ".join(cpu["features"]) + f" (in use: {cpu['isa']})"))
    if cpu["read_bytes_per_s"]:
        rows.append(("memory bandwidth", f"{cpu['read_bytes_per_s'] / 1e9:.1f} GB/s with {n_measured}"))
    if cpu["int8_ops_per_s"]:
        rows.append(("int8 peak", f"{cpu['int8_ops_per_s'] / 1e9:.0f} GOPS with {n_measured}"))
    rows.append(("memory", f"{_size(memory['available_bytes'])} available of {_size(memory['total_bytes'])}"))
    rows.append(("threads", f"{facts['threads']['default']} unless measured or told otherwise"))
    for entry in facts["threads"]["tuned"]:
        counts = f"{entry['n_threads_batch']} for prefill, {entry['n_threads']} for decode"
        rows.append(("threads, measured", f"{counts} of {entry['model']}"))
    if power:
        source = {True: "plugged in", False: "on battery, which may slow it down", None: "source unknown"}
        rows.append(("power", f"{power['percent']:.0f}%, {source[power['plugged_in']]}"))
    return rows


def _threads(n: int) -> str:
    return f"{n} thread" + ("s" if n != 1 else "")


def _cores(cpu: dict[str, Any]) -> str:
    kinds = f" ({cpu['n_performance']} performance, {cpu['n_efficiency']} efficiency)" if cpu["n_efficiency"] else ""
    text = f"{cpu['n_cores']}{kinds}, {_threads(cpu['n_threads'])}"
    if cpu["n_usable"] != cpu["n_threads"]:
        text += f", {cpu['n_usable']} of them ours"
    return text + (f", limited to {cpu['quota']:g} CPUs" if cpu["quota"] else "")


def _engines(facts: dict[str, Any]) -> Rows:
    rows = []
    for engine in facts["engines"]:
        detail = re.sub(r" = 1\b| \||(?<=CPU) (?=:)", "", engine.get("system", "")) or ", ".join(
            engine.get("providers", ())
        )
        rows.append((engine["package"], f"{engine['version']}: {detail}" if engine["version"] else "not usable"))
    for entry in facts["devices"]:
        through = ", ".join(entry["providers"])
        rows.append((entry["name"], f"usable through {through}" if entry["usable"] else entry["note"]))
    return rows


def _library(entry: dict[str, Any]) -> tuple[str, str]:
    extra = f", for edgeinfer[{entry['extra']}]" if entry["extra"] else ""
    verdict = "" if entry["ok"] else "  <- does not fit"
    return entry["name"], f"{entry['found'] or 'not installed'} (wanted {entry['wanted'] or 'any'}{extra}){verdict}"


def _model(entry: dict[str, Any]) -> Rows:
    from edgeinfer.cli import drafts
    from edgeinfer.coverage import Coverage, in_words

    kernels = in_words(Coverage(**entry["kernels"])) if entry["kernels"] else f"none: {entry['problem']}"
    name = entry["name"] or "not in the catalogue"
    rows = [(name, f"{entry['path']} ({_size(entry['bytes'])})"), ("its kernels", kernels)]
    if entry["draft"]:
        rows.append(("its draft model", drafts.partner_in_words(entry)))
    return rows + [("cost of its passes", line) for line in drafts.costs_in_words(entry)]


def _settings(facts: dict[str, Any]) -> Rows:
    rows = [
        (
            entry["purpose"],
            f"{entry['path']} ({_size(entry['free_bytes'])} free)" + ("" if entry["exists"] else ", not made yet"),
        )
        for entry in facts["folders"]
    ]
    rows.append(("packed weights", _packed(facts["packed"])))
    saved = facts["kv_cache"]
    states = f"{saved['n_states']} conversation" + ("s" if saved["n_states"] != 1 else "")
    rows.append(("saved KV", f"{saved['path']} ({_size(saved['bytes'])} of {states}; edgeinfer cache shows them)"))
    settings = facts["settings"]
    rows.append(("config file", settings["config_file"] + ("" if settings["exists"] else " (none)")))
    return rows + list(settings["variables"].items())


def _packed(entry: dict[str, Any]) -> str:
    models = f"{entry['n_images']} model" + ("s" if entry["n_images"] != 1 else "")
    limit = f"at most {_size(entry['cap_bytes'])}" if entry["cap_bytes"] else "switched off"
    return f"{entry['path']} ({_size(entry['bytes'])} of {models}; {limit})"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 1 << 30 else f"{n_bytes / 2**20:.0f} MiB"


# ---- showing


def plain(shown: dict[str, Rows]) -> str:
    """Aligned text; nothing but what is there, so that it can be grepped and mailed."""
    from edgeinfer.text.printable import printable

    lines = []
    width = max(len(label) for title, rows in shown.items() if title != "missing" for label, _ in rows)
    for title, rows in shown.items():
        lines.append(f"{title}:" if rows else f"{title}: none")
        for label, text in rows:
            pad = 0 if title == "missing" else width
            separator = " ->" if title == "missing" else ""
            lines.append(printable(f"  {label.ljust(pad)}{separator}  {text}"))
    return "\n".join(lines)


def _print_table(shown: dict[str, Rows]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from edgeinfer.cli.progress import stdout
    from edgeinfer.text.printable import printable

    for title, rows in shown.items():
        table = Table(
            title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False
        )
        table.add_column(style="yellow" if title == "missing" else "cyan", overflow="fold", max_width=46)
        table.add_column(overflow="fold")
        for label, text in rows or [("none", "")]:
            table.add_row(escape(printable(label)), escape(printable(text)))
        stdout().print(table)
