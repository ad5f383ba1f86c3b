"""Methods and operators that a chat template may use on its values: which there are, and what each may cost."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2.runtime import LoopContext

from edgeinfer.text import marked
from edgeinfer.text.budget import Budget
from edgeinfer.text.marked import Marked, Marks, join_text, text_of

__all__ = ["METHODS", "Tools", "is_written"]

_STRIPS = frozenset({"strip", "lstrip", "rstrip"})
_BACKWARDS = frozenset({"rfind", "rindex", "rsplit", "rpartition"})
_SIZED = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        {*_STRIPS, *_BACKWARDS, *_SIZED, *marked.PREDICATES, *marked.SEARCHES, *marked.CASES}
        | {"split", "splitlines", "partition", "removeprefix", "removesuffix", "join", "replace", "format"}
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset({"cycle", "changed"}),
}
_DIRECTIVE = re.compile(r"%(?:\([^()%]*\))?[-+ 0#]*\d{0,3}(?:\.\d{1,3})?[sdifFgGeExXoc%]")
_FIELD = re.compile(r"\{\{|\}\}|\{\w*(?:![sr])?(?::[^{}\d]{0,4}\d{0,3}[,_]?(?:\.\d{1,3})?[a-zA-Z%]?)?\}")
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "**": operator.pow,
    "%": operator.mod,
}
_SEQUENCES = (str, list, tuple)


def is_written(value: object) -> bool:
    """Whether a template may write the value out: text, numbers, and lists and mappings of them."""
    return value is None or isinstance(value, (str, int, float, list, tuple, dict))


class Tools:
    """Operations on the values of one rendering, within its budget and with its marks. They raise what Python raises,
    and `TemplateError` where the budget ends."""

    def __init__(self, budget: Budget, marks: Marks) -> None:
        self.budget = budget
        self.marks = marks

    def method(self, target: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """``target.name(*args, **kwargs)`` for a method listed in `METHODS`."""
        if isinstance(target, str):
            if name == "format":
                return self.format(target, args, kwargs)
            if name == "join":
                return self.join(target, *args, **kwargs)
            self._foresee(target, name, args)
            if not isinstance(target, Marked) and any(isinstance(arg, Marked) for arg in args):
                target = Marked(target, target, self.marks)
        return self.budget.charge(getattr(target, name)(*args, **kwargs))

    def _foresee(self, target: str, name: str, args: tuple[Any, ...]) -> None:
        """Refuse what would take long or grow large, before it does."""
        number = args[0] if args and isinstance(args[0], int) else 0
        if name == "expandtabs":
            self.budget.allow(text_of(target).count("\t") * (number or 8))
        elif name in _SIZED:
            self.budget.allow(number)
        elif name in _STRIPS or name in _BACKWARDS:
            for arg in args:
                self.budget.search(target, arg)
        elif name == "replace" and len(args) >= 2:
            old, new = args[:2]
            if isinstance(old, str) and isinstance(new, str):
                found = text_of(target).count(text_of(old))
                self.budget.allow(len(target) + found * max(0, len(new) - len(old)))

    def join(self, separator: str, items: Iterable[Any]) -> str:
        """``separator.join(items)``."""
        parts = list(items)
        self.budget.allow(len(separator) * len(parts) + sum(map(len, parts)))
        return join_text(separator, parts)

    def concatenate(self, parts: Iterable[Any]) -> str:
        """The values written one after another, as ``~`` and the end of a block do."""
        return self.join("", [self.written(part) for part in parts])

    def written(self, value: Any) -> str:
        """How a value looks in the output."""
        if isinstance(value, str):
            return value
        if not isinstance(value, (list, tuple, dict)):
            return str(value)
        self.budget.weigh(value)
        text = self.budget.charge(repr(_texts(value)))
        return self.marks.mark(text) if _any_marked(value) else str(text)

    def format(self, pattern: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """``pattern.format(*args, **kwargs)`` without attributes, subscripts, nested fields or large widths."""
        if set("{}") & set(_FIELD.sub("", text_of(pattern))):
            raise ValueError("format() is limited here to plain fields and widths of three digits")
        self.budget.allow(len(pattern) * 1000)
        args = tuple(map(self._formatted, args))
        kwargs = {name: self._formatted(value) for name, value in kwargs.items()}
        self.budget.allow(pattern.count("{") * max(map(_length, (*args, *kwargs.values())), default=0))

        def result(of: Callable[[Any], Any]) -> str:
            return str.format(of(pattern), *map(of, args), **{name: of(value) for name, value in kwargs.items()})

        return self.marks.like(result, pattern, *args, *kwargs.values())

    def percent(self, pattern: str, values: Any) -> str:
        """``pattern % values`` without widths of more than three digits."""
        if "%" in _DIRECTIVE.sub("", text_of(pattern)):
            raise ValueError("the % operator is limited here to plain directives and widths of three digits")
        if isinstance(values, dict):
            items = {key: self._formatted(value) for key, value in values.items()}
        else:
            items = dict(enumerate(map(self._formatted, values if isinstance(values, tuple) else (values,))))
        self.budget.allow(text_of(pattern).count("%") * (1000 + max(map(_length, items.values()), default=0)))

        def result(of: Callable[[Any], Any]) -> str:
            mapped = {of(key): of(value) for key, value in items.items()}
            return str.__mod__(of(pattern), mapped if isinstance(values, dict) else tuple(mapped.values()))

        return self.marks.like(result, pattern, *items.values())

    def _formatted(self, value: Any) -> Any:
        return self.written(value) if isinstance(value, (list, tuple, dict)) else value

    def operate(self, symbol: str, left: Any, right: Any) -> Any:
        """``left symbol right`` for an arithmetic operator."""
        if symbol == "%" and isinstance(left, str):
            return self.percent(left, right)
        if symbol == "+":
            if isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
                self.budget.allow(len(left) + len(right))
        elif symbol == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, _SEQUENCES) and isinstance(times, int):
                    self.budget.allow(len(sequence) * times)
        elif symbol == "**" and isinstance(left, int) and isinstance(right, int):
            self.budget.integer(left.bit_length() * max(right, 0))
        result = _OPERATORS[symbol](left, right)
        if isinstance(result, int):
            self.budget.integer(result.bit_length())
        return result


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else 0


def _texts(value: Any) -> Any:
    """The same value with real texts for marked ones."""
    if isinstance(value, dict):
        return {_texts(key): _texts(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_texts, value))
    return text_of(value)


def _any_marked(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_any_marked(part) for item in value.items() for part in item)
    if isinstance(value, (list, tuple)):
        return any(map(_any_marked, value))
    return isinstance(value, Marked)
