"""The options of a request by the names of their flags: for ``/set`` in a chat, and to tell which flags were given."""

from __future__ import annotations

from typing import Any

import click

from edgeinfer.cli import did_you_mean, options
from edgeinfer.cli.flags import Flag
from edgeinfer.core import SamplingParams
from edgeinfer.errors import UsageError

__all__ = ["field_of", "setting", "setting_names"]

_GRAMMARS = ("json-schema", "grammar", "regex")


def setting_names() -> list[str]:
    """What `setting` knows: the sampling flags without dashes, and ``on-overflow``."""
    return sorted(_settable())


def setting(name: str, text: str) -> tuple[str, Any]:
    """One option of a request from its flag's name and a text: ("temp", "0.2") -> ("temperature", 0.2). The text
    ``default`` gives the default back. Raises `UsageError` as the flag would."""
    key = {"temperature": "temp", "n-predict": "max-tokens"}.get(name.replace("_", "-"), name.replace("_", "-"))
    option = _settable().get(key)
    if option is None or option.name is None:
        raise UsageError(f"no setting {name!r}{did_you_mean(name, setting_names())}")
    field = "grammar" if key in _GRAMMARS else option.name
    if text == "default":
        return field, getattr(SamplingParams(), field, "error")
    try:
        value = option.type_cast_value(click.Context(options.everything), [text] if option.multiple else text)
    except click.UsageError as error:
        raise UsageError(f"{key}: {error.message}") from error
    if key in _GRAMMARS:
        value = options.grammar_of({"json_schema": None, "grammar": None, "regex": None, option.name: value})
    elif key == "logit-bias":
        value = dict(value)
    if field != "on_overflow":
        SamplingParams(**{field: value})
    return field, value


def field_of(parameter: str) -> str | None:
    """The option of a request that a flag sets, by the flag's parameter name; None for other flags."""
    if parameter in ("json_schema", "grammar", "regex"):
        return "grammar"
    return parameter if parameter in options.DEFAULTS or parameter == "on_overflow" else None


def _settable() -> dict[str, click.Option]:
    return {
        max(option.opts, key=len).lstrip("-"): option
        for option in options.everything.params
        if isinstance(option, Flag) and (option.section == options.SAMPLING or option.name == "on_overflow")
    }
