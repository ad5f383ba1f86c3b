"""The user's config file: defaults for flags, in TOML. Unknown keys are errors: a default silently ignored is worse.

model = "qwen2.5-coder-1.5b"     # for every command that has the flag
ctx-size = 8192

[chat]                           # for this command only
temp = 0.2
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click

from edgeinfer import env
from edgeinfer.errors import UsageError

__all__ = ["defaults"]

_MAX_BYTES = 1 << 20


def defaults(command_name: str, command: click.Command, commands: Collection[str]) -> dict[str, Any]:
    """What the config file says about the flags of this command, as click's ``default_map`` wants it.

    Raises `UsageError` that names the file for TOML that does not parse and for keys that no command has.
    """
    path = env.config_file()
    table = _read(path)
    if not table:
        return {}
    shared = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    for name, value in table.items():
        if isinstance(value, Mapping) and name not in commands:
            raise UsageError(f"unknown section [{name}] in {path}{_close(name, commands)}")
    own = table.get(command_name, {})
    if not isinstance(own, Mapping):
        raise UsageError(f"{command_name} in {path} must be a section: write [{command_name}]")
    flags = _flags(command)
    known = _shared_names() | set(flags)
    for key in shared:
        if key.replace("_", "-") not in known:
            raise UsageError(f"unknown key {key!r} in {path}{_close(key, known)}")
    for key in own:
        if key.replace("_", "-") not in flags:
            raise UsageError(f"unknown key {key!r} in section [{command_name}] of {path}{_close(key, flags)}")
    chosen: dict[str, Any] = {}
    for key, value in [*shared.items(), *own.items()]:
        flag = flags.get(key.replace("_", "-"))
        if flag is not None and flag.name:
            chosen[flag.name] = _as_click(value, flag, key, path)
    return chosen


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} is larger than {_MAX_BYTES} bytes: that is no config file")
    loads = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads
    try:
        table: dict[str, Any] = loads(data.decode())
        return table
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError(f"{path} is not TOML: {error}") from error


def _flags(command: click.Command) -> dict[str, click.Option]:
    """Long names, without dashes, of the flags that a file may set."""
    return {
        text.lstrip("-"): option
        for option in command.params
        if isinstance(option, click.Option) and option.expose_value
        for text in option.opts
        if text.startswith("--")
    }


def _shared_names() -> set[str]:
    from edgeinfer.cli import options

    return set(_flags(options.everything))


def _as_click(value: Any, flag: click.Option, key: str, path: Path) -> Any:
    if flag.multiple:
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if isinstance(value, (str, int, float)):
        return value if flag.is_flag else str(value)
    raise UsageError(f"{key} in {path} must be text, a number, true or false")


def _close(word: str, known: Collection[str]) -> str:
    from edgeinfer.cli import did_you_mean

    return did_you_mean(word, sorted(known))
