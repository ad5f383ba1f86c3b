"""Prompts made of columns: ``Summarise in one line: {text}``. Names in braces are replaced by the row's values, and
``{{`` and ``}}`` are braces; there is nothing else to it, so that no value of a row can mean anything."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from typing import Any

from edgeinfer.batch.rows import RowError
from edgeinfer.errors import UsageError

__all__ = ["PromptTemplate"]


class PromptTemplate:
    """Raises `UsageError` for a template that cannot be read, or that uses no column."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._parts: list[tuple[str, str | None]] = []
        try:
            for text, name, spec, conversion in string.Formatter().parse(source):
                if name is not None and (not name.strip() or spec or conversion):
                    raise ValueError("braces hold the name of a column and nothing else; write {{ and }} for braces")
                self._parts.append((text, name))
        except ValueError as error:
            raise UsageError(f"the prompt template cannot be read: {error}") from None
        self.columns = tuple(dict.fromkeys(name for _, name in self._parts if name is not None))
        if not self.columns:
            raise UsageError("the prompt template uses no column: every row would ask the same; write {name} for one")

    def fill(self, record: Mapping[str, Any]) -> str:
        """The prompt of a row. Raises `RowError` where it lacks a column."""
        missing = [name for name in self.columns if record.get(name) is None]
        if missing:
            raise RowError(f"no value for {', '.join(map(repr, missing))}, which the prompt template uses")
        return "".join(text + (_shown(record[name]) if name is not None else "") for text, name in self._parts)


def _shown(value: object) -> str:
    """As the value was written in the row: JSON for what is no text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
