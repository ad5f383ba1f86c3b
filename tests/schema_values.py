"""Requests from an OpenAPI document: values that fit its schemas, and values that nearly do. As much of JSON Schema as
our own document uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

__all__ = ["requests"]

Schema = Mapping[str, Any]
_TEXTS = st.text(max_size=40) | st.sampled_from(["hi", "say hello", "count 5", "", "\0", "😀", "<|turn|>", "a" * 300])
_KEYS = st.sampled_from(["type", "text", "role", "name", "content", "$ref", "anyOf", "properties", ""]) | st.text(
    max_size=8
)
_NUMBERS = st.integers(-3, 40) | st.sampled_from([0, -1, 2**31, 2**63, 2**64, -(2**70)])
_FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-2, 2)
_ANYTHING = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _FLOATS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=6,
)
_DEEPEST = 6


def fitting(schema: Schema, document: Schema, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that fit the schema."""
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    if depth > _DEEPEST:
        return _ANYTHING
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return st.one_of([fitting(each, document, depth + 1) for each in schema[word]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return _of_type(schema, document, depth)


def _of_type(schema: Schema, document: Schema, depth: int) -> st.SearchStrategy[Any]:
    kind = schema.get("type")
    if kind == "object":
        return _objects(schema, document, depth)
    if kind == "array":
        items = fitting(schema.get("items", {}), document, depth + 1)
        return st.lists(items, min_size=schema.get("minItems", 0), max_size=schema.get("minItems", 0) + 3)
    if kind == "string":
        if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True).map(lambda text: text[:20])
        return _TEXTS.filter(lambda text: len(text) >= schema.get("minLength", 0))
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", -(2**31)))
        high = min(schema.get("maximum", schema.get("exclusiveMaximum", 2**31)), low + 50)
        return st.integers(low, high) if kind == "integer" else st.floats(low, high)
    return {"boolean": st.booleans(), "null": st.none()}.get(str(kind), _ANYTHING)


def _objects(schema: Schema, document: Schema, depth: int) -> st.SearchStrategy[Any]:
    properties: Schema = schema.get("properties", {})
    if not properties:
        values = schema.get("additionalProperties", True)
        inner = fitting(values, document, depth + 1) if isinstance(values, Mapping) else _ANYTHING
        return st.dictionaries(_KEYS, inner, max_size=3)
    known = {name: fitting(each, document, depth + 1) for name, each in properties.items()}
    required = set(schema.get("required", ()))

    def some(chosen: set[str]) -> st.SearchStrategy[Any]:
        return st.fixed_dictionaries({name: known[name] for name in sorted(chosen | required)})

    optional = sorted(set(known) - required)
    return st.sets(st.sampled_from(optional), max_size=4).flatmap(some) if optional else some(set())


@st.composite
def _spoilt(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> Any:
    """A value with something in it that does not belong there."""
    value = draw(values)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    value = json.loads(json.dumps(value))
    walk(value)
    if not places or draw(st.booleans()):
        if isinstance(value, dict):
            value[draw(_KEYS)] = draw(_ANYTHING)
        return value
    node, key = draw(st.sampled_from(places))
    node[key] = draw(_ANYTHING)
    return value


def requests(document: Schema) -> st.SearchStrategy[tuple[str, str, Any]]:
    """(method, path, body or None) for every operation of the document."""
    found = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = st.just(path)
            if "{" in path:
                where = st.sampled_from(["x", "scripted", "..", "%00", "resp_1"]).map(
                    lambda name, path=path: path[: path.index("{")] + name  # type: ignore[misc]
                )
            content = operation.get("requestBody", {}).get("content", {})
            bodies: st.SearchStrategy[Any] = st.none()
            if content:
                fits = fitting(content["application/json"]["schema"], document)
                bodies = fits | _spoilt(fits) | _spoilt(_spoilt(fits)) | _ANYTHING
            weight = 6 if content else 1
            found += [st.tuples(st.just(method.upper()), where, bodies)] * weight
    return st.one_of(found)
