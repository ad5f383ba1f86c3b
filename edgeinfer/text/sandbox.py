"""Running a chat template, which is a program that came with a model: what it may name, call and reach, and at what
cost.

Jinja's own sandbox forbids names; this one allows a list of syntax, filters, tests, functions and methods, and meters
each step. It knows nothing of tokens; what marks are for is told in `edgeinfer.text.marked`. Imports Jinja: import
late.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from edgeinfer.text.budget import Budget
from edgeinfer.text.marked import Marks, text_of
from edgeinfer.text.methods import METHODS, Tools, is_written

__all__ = ["Sandbox", "contains"]

_SYNTAX: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Macro, nodes.CallBlock),
    *(nodes.FilterBlock, nodes.With, nodes.Assign, nodes.AssignBlock, nodes.Name, nodes.NSRef, nodes.Const),
    *(nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test),
    *(nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat, nodes.Compare, nodes.Operand),
    *(nodes.BinExpr, nodes.UnaryExpr, nodes.Continue, nodes.Break, nodes.Scope),
)
_VALUES: Mapping[type, frozenset[str]] = {
    LoopContext: frozenset(
        {"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0"}
        | {"previtem", "nextitem"}
    ),
    Macro: frozenset({"name", "arguments", "catch_kwargs", "catch_varargs", "caller"}),
}


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template. Any number of threads may render at once, each one rendering at a time."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, filters: Mapping[str, Any], tests: Mapping[str, Any], functions: Mapping[str, Any]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is computed while compiling
            finalize=_finalize,
            extensions=[LoopControlExtension, _Generation],
        )
        self.filters = {**filters, **_INTERNAL}
        self.tests = dict(tests)
        self.globals = dict(functions)
        self._functions = frozenset(map(id, functions.values()))
        self._local = threading.local()

    @property
    def tools(self) -> Tools:
        """The tools of the rendering that this thread is in."""
        tools: Tools = self._local.tools
        return tools

    def compile_source(self, source: str) -> jinja2.Template:
        """Raises `jinja2.TemplateSyntaxError`, and whatever Python's own compiler does."""
        self._local.tools = Tools(Budget(), Marks())
        try:
            return self.from_string(source)
        finally:
            del self._local.tools

    def render(self, template: jinja2.Template, variables: Mapping[str, Any], n_input: int, marks: Marks) -> str:
        """The template's output, marked where marks are in use. Raises whatever the template provokes."""
        tools = self._local.tools = Tools(Budget(n_input), marks)
        try:
            context = template.new_context(dict(variables))
            parts: list[str] = []
            length = 0
            for part in template.root_render_func(context):
                tools.budget.step()
                length += len(part)
                tools.budget.fits(length)
                parts.append(part)
            return tools.join("", parts)
        finally:
            del self._local.tools

    # Hooks that Jinja calls.

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        result: nodes.Template = _Rewriter().visit(tree)
        return result

    def concat(self, parts: Iterable[Any]) -> str:
        self.tools.budget.step()
        return self.tools.join("", parts)

    def call_binop(self, _context: Context, operator: str, left: Any, right: Any) -> Any:
        self.tools.budget.step()
        return self.tools.operate(operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = self.tools.budget
        budget.step()
        for value in (*args, *kwargs.values()):
            budget.weigh(value)
        if isinstance(obj, LoopContext):
            args = tuple(_Each(budget, arg) for arg in args)
        elif not (isinstance(obj, (_Method, Macro, Undefined)) or id(obj) in self._functions):
            raise SecurityError(f"a value of type {type(obj).__name__} cannot be called")
        budget.enter()
        try:
            return budget.charge(context.call(obj, *args, **kwargs))
        finally:
            budget.leave()

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.tools.budget.step()
        found, value = self._attribute(obj, attribute)
        if found:
            return value
        try:
            return obj[attribute]
        except (TypeError, LookupError):
            return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.tools.budget.step()
        try:
            return obj[argument]
        except (TypeError, LookupError):
            found, value = self._attribute(obj, text_of(argument)) if isinstance(argument, str) else (False, None)
            return value if found else self.undefined(obj=obj, name=text_of(argument))

    def _attribute(self, obj: Any, name: str) -> tuple[bool, Any]:
        if name.startswith("_"):
            return False, None
        if isinstance(obj, (Undefined, Namespace)):
            return hasattr(obj, name), getattr(obj, name, None)
        for kind, names in METHODS.items():
            if isinstance(obj, kind) and name in names:
                return True, _Method(self, obj, name)
        for kind, names in _VALUES.items():
            if isinstance(obj, kind) and name in names:
                return True, getattr(obj, name)
        return False, None


class _Method:
    """A method that a template got hold of, and may call."""

    __slots__ = ("_name", "_sandbox", "_target")

    def __init__(self, sandbox: Sandbox, target: Any, name: str) -> None:
        self._sandbox, self._target, self._name = sandbox, target, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._sandbox.tools.method(self._target, self._name, args, kwargs)


class _Each:
    """What a ``for`` runs over: the same, a step each."""

    __slots__ = ("_budget", "_items")

    def __init__(self, budget: Budget, items: Any) -> None:
        self._budget, self._items = budget, items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        step = self._budget.step
        for item in self._items:
            step()
            yield item


class _Generation(Extension):
    """``{% generation %}`` marks what to train on in some templates; for us it is its body."""

    tags = {"generation"}  # noqa: RUF012, the type is Jinja's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Rewriter(NodeTransformer):
    """Refuses syntax that chat templates have no use for, and puts a meter where the compiled code would not ask us:
    loops, slices, comparisons, ``in`` and ``~``."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(node, _SYNTAX):
            raise TemplateSyntaxError(f"{type(node).__name__.lower()} is not for chat templates", node.lineno)
        return super().visit(node, *args, **kwargs)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        if node.name.startswith("_"):
            raise TemplateSyntaxError(f"no filter named {node.name!r}", node.lineno)
        return self.generic_visit(node)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_each")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "_made") if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node.nodes[0], "_written", *node.nodes[1:])

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        first = node.ops[0]
        if len(node.ops) == 1 and first.op in ("in", "notin"):
            found = _filtered(node.expr, "_in", first.expr)
            return found if first.op == "in" else nodes.Not(found, lineno=node.lineno)
        node.expr = _filtered(node.expr, "_weighed")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "_weighed")
        return node


def _filtered(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _tools(context: Context) -> Tools:
    return cast(Sandbox, context.environment).tools


@pass_context
def _finalize(context: Context, value: Any) -> str:
    tools = _tools(context)
    tools.budget.step()
    if not (is_written(value) or isinstance(value, Undefined)):
        raise SecurityError(f"a value of type {type(value).__name__} cannot be written out")
    return tools.written(value)


@pass_context
def _each(context: Context, value: Any) -> _Each:
    return _Each(_tools(context).budget, value)


@pass_context
def _made(context: Context, value: Any) -> Any:
    budget = _tools(context).budget
    budget.step()
    return budget.charge(value)


@pass_context
def _weighed(context: Context, value: Any) -> Any:
    budget = _tools(context).budget
    budget.step()
    budget.weigh(value)
    return value


@pass_context
def contains(context: Context, value: Any, container: Any) -> bool:
    """``value in container``, for the operator and the test of that name."""
    budget = _tools(context).budget
    budget.step()
    budget.weigh(value)
    budget.weigh(container)
    if isinstance(container, str):
        value, container = text_of(value), text_of(container)
    return value in container


@pass_context
def _written(context: Context, *values: Any) -> str:
    return _tools(context).join("", [_finalize(context, value) for value in values])


_INTERNAL: Mapping[str, Callable[..., Any]] = {
    "_each": _each,
    "_in": contains,
    "_made": _made,
    "_weighed": _weighed,
    "_written": _written,
}
