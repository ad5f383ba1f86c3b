"""Rows with tools, and responses: their bodies are read by the code that the server reads them with. Needs pydantic,
which other rows do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeinfer.batch.fields import JsonObject
from edgeinfer.batch.rows import RowError
from edgeinfer.errors import BackendUnavailable, UsageError
from edgeinfer.options import RequestOptions

if TYPE_CHECKING:
    from edgeinfer.bodies.fields import Toolbox
    from edgeinfer.bodies.responses import ResponseBody

__all__ = ["TOOL_FIELDS", "read_response", "read_tools", "response_body_of"]

TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")


def read_tools(body: JsonObject, options: dict[str, Any]) -> tuple[str, ...]:
    """Put what the body says about tools into ``options``. Returns the functions that may be called. Raises
    `RowError`."""
    try:
        from edgeinfer.bodies.chat import ToolFields
    except ImportError as error:
        raise _missing(error) from None
    box: Toolbox = _checked(ToolFields, {name: body[name] for name in TOOL_FIELDS if name in body}, "toolbox")
    if box.grammar and any(body.get(name) is not None for name in ("response_format", "json_schema", "regex")):
        raise RowError("only one of response_format, regex and a demanded tool call can be had at a time")
    _demand(box, options)
    return tuple(sorted(box.names))


def read_response(
    body: JsonObject, defaults: Mapping[str, Any], seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any], tuple[str, ...]]:
    """(messages, options, the functions that may be called) of the body of a response. Raises `RowError`."""
    parsed = response_body_of(body)
    if parsed.previous_response_id is not None:
        raise RowError("previous_response_id: rows of a batch cannot follow on each other; put all turns into input")
    try:
        box = parsed.toolbox()
        messages = parsed.conversation()
        given = {name: value for name, value in parsed.options(box).items() if value is not None}
        options = {**defaults, **given}
        if options.get("seed") is None:
            options["seed"] = seed
        RequestOptions().updated(options)
    except RowError:
        raise
    except UsageError as error:
        raise RowError(str(error)) from None
    return messages, options, tuple(sorted(box.names))


def response_body_of(body: JsonObject) -> ResponseBody:
    """Raises `RowError`."""
    try:
        from edgeinfer.bodies.responses import ResponseBody
    except ImportError as error:
        raise _missing(error) from None
    found: ResponseBody = _checked(ResponseBody, body)
    return found


def _demand(box: Toolbox, options: dict[str, Any]) -> None:
    if box.told:
        options["tools"] = box.told
    if box.grammar:
        options["grammar"] = box.grammar


def _checked(kind: Any, fields: JsonObject, method: str = "") -> Any:
    """The body of this kind, or what its method gives."""
    from pydantic import ValidationError

    from edgeinfer.bodies.errors import fault

    try:
        found = kind.model_validate(dict(fields))
        return getattr(found, method)() if method else found
    except ValidationError as error:
        raise RowError(fault(error.errors(include_url=False)[0])[1]) from None
    except UsageError as error:
        raise RowError(str(error)) from None


def _missing(error: ImportError) -> BackendUnavailable:
    return BackendUnavailable(f"rows with tools and responses need pydantic: pip install 'edgeinfer[server]' ({error})")
