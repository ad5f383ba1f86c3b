"""The order in which rows are handed in: those whose prompts begin alike one after the other, so that what they share
is read once. Looks a bounded number of rows ahead: memory does not grow with the job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgeinfer.batch.rows import Row

__all__ = ["grouped"]

N_AHEAD = 512
AHEAD_BYTES = 8 << 20


def grouped(rows: Iterable[Row], n_ahead: int = N_AHEAD, ahead_bytes: int = AHEAD_BYTES) -> Iterator[Row]:
    """All rows, sorted by their prompts within every ``n_ahead`` of them, or fewer where prompts are long."""
    ahead: list[tuple[str, int, Row]] = []
    n_bytes = 0
    for row in rows:
        tools = row.options.get("tools")  # templates tell of them before anything else
        beginning = (json.dumps(tools) if tools else "") + _text(row.prompt)
        n_bytes += len(beginning)
        ahead.append((beginning, row.index, row))
        if len(ahead) >= n_ahead or n_bytes >= ahead_bytes:
            yield from _sorted(ahead)
            n_bytes = 0
    yield from _sorted(ahead)


def _sorted(ahead: list[tuple[str, int, Row]]) -> Iterator[Row]:
    """The rows in order; the list is empty afterwards, and holds no row that was handed out."""
    ahead.sort(key=lambda entry: entry[:2], reverse=True)
    while ahead:
        yield ahead.pop()[2]


def _text(prompt: str | Sequence[Any]) -> str:
    """A text that begins like another where their prompts do."""
    if isinstance(prompt, str):
        return prompt
    return "\0".join(_part(part) for part in prompt)


def _part(part: Any) -> str:
    if isinstance(part, Mapping):
        return f"{part.get('role')}\0{part.get('content') or ''}"
    return chr(part % 0xD800) if isinstance(part, int) else str(part)
