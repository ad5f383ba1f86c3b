"""JSON schemas on their way to llguidance: parsed strictly, bounded, and put into Lark. It knows nothing of tokens.

llguidance refuses every keyword of JSON Schema that it does not implement. What is checked here is what it would take
forever to compile, and what would change its options.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

from edgeinfer.errors import GrammarError

MAX_DEPTH = 64
_MAX_MULTIPLE = 100_000  # `multipleOf` needs a state for each remainder
_MAX_INTERSECTED = 16  # `pattern`s below one `allOf`: the time to intersect them doubles with each
_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "lenient": False}

Node = tuple[str, Any]


def to_lark(source: str) -> str:
    """A Lark grammar for answers that fit the schema. Raises `GrammarError` for no JSON, no schema, or one over the
    limits."""
    schema = _parsed(source)
    for path, node in _nodes(schema):
        _check(path, node)
    # ASCII, so that no character of a schema can mean anything to Lark's own reader
    return "start: %json " + json.dumps({**schema, "x-guidance": _STYLE}, allow_nan=False)


def where(source: str, message: str) -> str:
    """Where in the schema a word that llguidance's message quotes first stands, as ``" at #/a/b"``, or nothing."""
    words = re.findall(r"""["'`]([^"'`]+)["'`]""", message) + re.findall(r": ([^\s:]+)$", message)
    nodes = [(path, node) for path, node in _nodes(_parsed(source)) if isinstance(node, dict)]
    for word in words:
        for path, node in nodes:
            if word in node or word in [value for value in node.values() if isinstance(value, str)]:
                return f" at {path}"
    return ""


def _parsed(source: str) -> dict[str, Any]:
    _check_depth(source)
    try:
        schema = json.loads(source, parse_constant=_no_constant)
        json.dumps(schema, allow_nan=False)
    except json.JSONDecodeError as error:
        raise GrammarError(
            f"the JSON schema is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError as error:  # a number too long or too large
        raise GrammarError(f"the JSON schema is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise GrammarError(f"the JSON schema is {json.dumps(schema)[:40]}, but must be an object")
    if "x-guidance" in schema:
        raise GrammarError("the JSON schema has the keyword x-guidance, which is edgeinfer's own to set; remove it")
    return schema


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _check_depth(source: str) -> None:
    """Before parsing, which is recursive."""
    depth = 0
    for mark in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', source, re.DOTALL):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark.group(), 0)
        if depth > MAX_DEPTH:
            line = source.count("\n", 0, mark.start()) + 1
            raise GrammarError(f"the JSON schema is nested deeper than {MAX_DEPTH} in line {line}")


def _nodes(schema: Any, path: str = "#") -> Iterator[Node]:
    """The schema and everything inside, with JSON pointers, outermost first."""
    yield path, schema
    inside = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    for key, value in inside:
        yield from _nodes(value, f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}")


def _check(path: str, node: Any) -> None:
    if not isinstance(node, dict):
        return
    multiple = node.get("multipleOf")
    if isinstance(multiple, (int, float)) and not isinstance(multiple, bool):
        _, digits, exponent = Decimal(str(multiple)).normalize().as_tuple()
        if int("".join(map(str, digits))) * 10 ** max(int(exponent), 0) > _MAX_MULTIPLE:
            raise GrammarError(f"the JSON schema has multipleOf {multiple} at {path}, but {_MAX_MULTIPLE} is the most")
    if isinstance(node.get("allOf"), list):
        patterns = sum(isinstance(n, dict) and isinstance(n.get("pattern"), str) for _, n in _nodes(node["allOf"]))
        if patterns > _MAX_INTERSECTED:
            raise GrammarError(
                f"the JSON schema has {patterns} patterns below the allOf at {path}, but {_MAX_INTERSECTED} is the most"
            )
