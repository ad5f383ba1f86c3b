"""The filters, tests and functions that chat templates have: those that published templates use, and no others.

Where Jinja's own would do work out of proportion to its input, or lose the marks of a message's text, it is ours here.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from jinja2 import filters as theirs
from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Context
from jinja2.tests import TESTS as THEIR_TESTS
from jinja2.utils import Namespace, _PassArg, pass_context

from edgeinfer.text.marked import Marked, text_of
from edgeinfer.text.methods import Tools
from edgeinfer.text.sandbox import Sandbox, contains

__all__ = ["FILTERS", "FUNCTIONS", "TESTS", "Refused"]

_RANGE = 100_000
_DIGITS = 4096
_STRFTIME = re.compile(r"%[-_0^#]?[A-Za-z%]")


class Refused(TemplateRuntimeError):
    """The template called ``raise_exception``: it cannot render these messages, and says why."""


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter or test, within the budget of the rendering it is used in."""
    needs = _PassArg.from_obj(function)

    @pass_context
    def call(context: Context, *args: Any, **kwargs: Any) -> Any:
        budget = _tools(context).budget
        budget.step()
        for value in (*args, *kwargs.values()):
            budget.weigh(value)
        if needs is _PassArg.context:
            args = (context, *args)
        elif needs is _PassArg.environment:
            args = (context.environment, *args)
        elif needs is _PassArg.eval_context:
            args = (context.eval_ctx, *args)
        return budget.charge(function(*args, **kwargs))

    return call


def _tools(context: Context) -> Tools:
    return cast(Sandbox, context.environment).tools


def _method(name: str) -> Callable[..., Any]:
    """A filter that is the method of the same name on the value as text."""

    @pass_context
    def call(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        tools = _tools(context)
        return tools.method(tools.written(value), name, args, kwargs)

    return call


@pass_context
def _trim(context: Context, value: Any, chars: str | None = None) -> Any:
    tools = _tools(context)
    return tools.method(tools.written(value), "strip", (chars,), {})


@pass_context
def _replace(context: Context, value: Any, old: Any, new: Any, count: int | None = None) -> Any:
    tools = _tools(context)
    args = (tools.written(old), tools.written(new), -1 if count is None else count)
    return tools.method(tools.written(value), "replace", args, {})


@pass_context
def _title(context: Context, value: Any) -> str:
    tools = _tools(context)
    text = tools.written(value)
    title = theirs.do_title(text_of(text))
    return tools.marks.mark(title) if isinstance(text, Marked) else title


@pass_context
def _string(context: Context, value: Any) -> str:
    return _tools(context).written(value)


@pass_context
def _escape(context: Context, value: Any) -> str:
    tools = _tools(context)
    text = tools.written(value)
    for old, new in (("&", "&amp;"), (">", "&gt;"), ("<", "&lt;"), ("'", "&#39;"), ('"', "&#34;")):
        text = tools.method(text, "replace", (old, new), {})
    return text


@pass_context
def _join(context: Context, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    tools = _tools(context)
    if attribute is not None:
        value = map(theirs.make_attrgetter(context.environment, attribute), value)
    return tools.join(tools.written(d), [tools.written(item) for item in value])


@pass_context
def _indent(context: Context, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    tools = _tools(context)
    text = tools.written(value)
    margin = tools.written(tools.operate("*", " ", width) if isinstance(width, int) else width)
    lines = tools.method(tools.operate("+", text, "\n"), "splitlines", (), {})
    out = [tools.operate("+", margin, line) if index and (line or blank) else line for index, line in enumerate(lines)]
    text = tools.join("\n", out)
    return cast(str, tools.operate("+", margin, text)) if first else text


@pass_context
def _format(context: Context, value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TypeError("format takes positional or keyword arguments, not both")
    tools = _tools(context)
    return tools.percent(tools.written(value), kwargs or args)


@pass_context
def _sum(context: Context, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    tools = _tools(context)
    if attribute is not None:
        iterable = map(theirs.make_attrgetter(context.environment, attribute), iterable)
    for item in iterable:
        start = tools.operate("+", start, item)
    return start


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    return theirs.do_int(_number(value), default, base)


def _float(value: Any, default: float = 0.0) -> float:
    return theirs.do_float(_number(value), default)


def _number(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _DIGITS:
        raise ValueError(f"a number of {len(value)} digits")
    return text_of(value)


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if not -20 <= precision <= 20:
        raise ValueError(f"round to {precision} places")
    return theirs.do_round(value, precision, text_of(method))


def _safe(value: Any) -> Any:
    return value  # nothing is escaped here, so nothing need be exempted


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As `transformers` has it: no HTML escapes, all of Unicode as it is."""
    tools = _tools(context)
    tools.budget.weigh(value)
    if (indent if isinstance(indent, int) else len(indent or "")) > 64:
        raise ValueError("tojson with an indent of more than 64")
    marked = False

    def escaped(item: Any) -> Any:
        # Strings are escaped here and then marked, so that what `json` finds in them needs no escape.
        nonlocal marked
        if isinstance(item, Marked):
            marked = True
            return str.__str__(tools.marks.mark(json.dumps(item._text, ensure_ascii=ensure_ascii)[1:-1]))
        if isinstance(item, dict):
            pairs = sorted(item.items(), key=lambda pair: pair[0]) if sort_keys else item.items()
            return {escaped(key): escaped(part) for key, part in pairs}
        return [escaped(part) for part in item] if isinstance(item, (list, tuple)) else item

    buffer = escaped(value)
    options: dict[str, Any] = {"indent": text_of(indent), "separators": separators}
    plain = _unmarked(value) if marked else value
    text = _dumped(tools, plain, ensure_ascii=ensure_ascii, sort_keys=sort_keys, **options)
    if not marked:
        return text
    out = _dumped(tools, buffer, ensure_ascii=False, **options)
    return Marked(out, text, tools.marks) if len(out) == len(text) else tools.marks.mark(text)


def _dumped(tools: Tools, value: Any, **options: Any) -> str:
    chunks: list[str] = []
    n = 0
    for chunk in json.JSONEncoder(**options).iterencode(value):
        n += len(chunk)
        tools.budget.step()
        tools.budget.fits(n)
        chunks.append(chunk)
    return "".join(chunks)


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {text_of(key): _unmarked(item) for key, item in value.items()}
    return [_unmarked(item) for item in value] if isinstance(value, (list, tuple)) else text_of(value)


def _range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > _RANGE:
        raise ValueError(f"a range of more than {_RANGE} numbers")
    return numbers


def _raise_exception(message: Any = "") -> None:
    raise Refused(str(text_of(message)))


def _strftime_now(pattern: str) -> str:
    pattern = text_of(pattern)
    if len(pattern) > 200 or "%" in _STRFTIME.sub("", pattern):
        raise ValueError("strftime_now takes plain directives only")
    return datetime.datetime.now().strftime(pattern)


_THEIR_FILTERS = (
    *("abs", "count", "d", "default", "dictsort", "first", "items", "last", "length", "list", "map", "max", "min"),
    *("reject", "rejectattr", "reverse", "select", "selectattr", "sort", "unique"),
)
_OUR_FILTERS: Mapping[str, Callable[..., Any]] = {
    "capitalize": _method("capitalize"),
    "e": _escape,
    "escape": _escape,
    "float": _float,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "join": _join,
    "lower": _method("lower"),
    "replace": _replace,
    "round": _round,
    "safe": _safe,
    "string": _string,
    "sum": _sum,
    "title": _title,
    "tojson": _tojson,
    "trim": _trim,
    "upper": _method("upper"),
}
_ALL_FILTERS: Mapping[str, Any] = {**{name: theirs.FILTERS[name] for name in _THEIR_FILTERS}, **_OUR_FILTERS}
FILTERS: Mapping[str, Callable[..., Any]] = {name: _metered(function) for name, function in _ALL_FILTERS.items()}
_ALL_TESTS: Mapping[str, Any] = THEIR_TESTS
_NO_TESTS = ("callable", "escaped", "filter", "in", "test")
TESTS: Mapping[str, Callable[..., Any]] = {
    **{name: _metered(function) for name, function in _ALL_TESTS.items() if name not in _NO_TESTS},
    "in": contains,
}
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "dict": dict,
    "namespace": Namespace,
    "raise_exception": _raise_exception,
    "range": _range,
    "strftime_now": _strftime_now,
}
