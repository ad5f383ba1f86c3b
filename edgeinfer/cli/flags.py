"""What a command's flags are made of: headings in the help, a variable for each flag, and types of values that click
has not. Knows no flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgeinfer import files
from edgeinfer.errors import UsageError

__all__ = [
    "Command",
    "Flag",
    "Group",
    "bias",
    "device",
    "flag",
    "kv_cache",
    "size",
    "some_text",
    "together",
    "whole_number",
]

F = TypeVar("F", bound=Callable[..., Any])


class Group(click.Group):
    """Commands under one name. The name alone shows its help on standard error, as ``edgeinfer`` alone does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)


class Command(click.Command):
    """A command whose help shows its flags under headings, ``Options`` last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None:  # newer releases of click have one of arguments too, which the usage line shows
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        common = sections.pop("Options", [])  # what each command has, after what is its own
        for name, records in [*sections.items(), ("Options", common)]:
            with formatter.section(name):
                formatter.write_dl(records, col_max=34)


class Flag(click.Option):
    """An option under a heading, with its EDGEINFER_… variable."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section
        if self.envvar is None and self.expose_value:
            longest = max(self.opts, key=len)
            self.envvar = "EDGEINFER_" + longest.lstrip("-").upper().replace("-", "_")
            self.show_envvar = True
        if isinstance(self.type, click.IntRange | click.FloatRange):  # "'x' is not a valid integer range"
            self.type.name = "whole number" if isinstance(self.type, click.IntRange) else "number"

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """The flag's names. Not its variable: a message names that where the value came from there."""
        return click.Parameter.get_error_hint(self, ctx)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """A flag that may be repeated takes one value a line from its variable: values may hold spaces."""
        if self.multiple:
            text = self.resolve_envvar_value(ctx)
            return text.splitlines() if text else None
        return super().value_from_envvar(ctx)


def flag(*names: str, section: str = "Options", **attributes: Any) -> Callable[[F], F]:
    """An option with its variable, ``--ctx-size`` -> ``EDGEINFER_CTX_SIZE``, listed under ``section`` in the help."""
    return click.option(*names, cls=Flag, section=section, **attributes)


def together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """The decorators in reading order."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def size(value: Any) -> int:
    """``2G`` -> bytes."""
    try:
        n_bytes = files.parse_bytes(value)
    except UsageError as error:
        raise click.BadParameter(str(error)) from error
    if n_bytes < 1:
        raise click.BadParameter(f"{value!r} must be above 0")
    return n_bytes


def kv_cache(value: Any) -> str:
    """``4G`` or ``off``, as `LLM` takes it."""
    text = str(value).strip().lower()
    if text not in ("off", "0"):
        size(text)
    return text


def device(value: Any) -> str:
    """A word of `edgeinfer.engines.devices`."""
    from edgeinfer.engines import devices

    try:
        devices.parse(str(value))
    except UsageError as error:
        raise click.BadParameter(str(error)) from error
    return str(value).strip().lower()


def bias(value: Any) -> tuple[int, float]:
    """``123=-4.5`` -> (123, -4.5)."""
    token_id, _, amount = str(value).partition("=")
    try:
        return int(token_id), float(amount)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not ID=BIAS, for example 123=-4.5") from error


def some_text(value: Any) -> str:
    """Not empty."""
    if not value:
        raise click.BadParameter("must not be empty")
    return str(value)


def whole_number(low: int, high: int | None, minus_one: str) -> Callable[[Any], int | None]:
    """A type for flags where llama.cpp's -1 has a meaning (``minus_one``): it becomes None."""

    def convert(value: Any) -> int | None:
        try:
            number = int(value)
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not a whole number") from error
        if number == -1:
            return None
        if number < low or (high is not None and number > high):
            limits = f"at least {low}" if high is None else f"between {low} and {high}"
            raise click.BadParameter(f"{number} must be {limits} (-1: {minus_one})")
        return number

    return convert
