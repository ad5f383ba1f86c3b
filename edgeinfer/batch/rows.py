"""The nouns of a batch job: a row as it was found, a row that can be computed, what came of it. Plain data, no I/O.

A row is known by its place and by what it says: ``row_17_0123456789abcdef`` is the row of index 17 whose record has
that hash. Every line that is written carries this name, so a result can always be led back to its row, and two rows
with one custom_id, or one prompt, stay two rows. Names hold no time and no chance: the same job writes the same
lines."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeinfer.core import GenerationStats
from edgeinfer.errors import UsageError

__all__ = ["Computed", "Form", "Raw", "Row", "RowError", "namer", "parse_name", "row_key"]

Form = Literal["chat", "completion", "embedding", "plain", "response"]
"""How a result is written: OpenAI's batch output around one of its four bodies, or our own plain line."""

_PREFIX = {"plain": "row"}
_NAME = re.compile(r"(?:row|batch_req)_(\d{1,18})_([0-9a-f]{16})")


class RowError(UsageError):
    """A row that cannot be computed, and why: it goes to the errors file, and the job goes on. ``custom_id``: the
    row's, where it could be read."""

    custom_id: str | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """A row as the input has it. ``index`` counts rows from 0, ``line`` is where it begins (from 1; of a Parquet file
    the row). ``record``: the bytes of a JSON line, or the values of its columns by name. ``problem``: why it is
    neither, if so."""

    index: int
    line: int
    key: str
    record: bytes | Mapping[str, Any] = field(repr=False)
    problem: str | None = None

    @property
    def name(self) -> str:
        return f"row_{self.index}_{self.key}"


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be computed: ``prompt`` and ``options`` as `edgeinfer.LLM.submit` takes them, ``n`` answers of
    it; an embedding has ``texts`` instead. ``metadata`` is carried through to the result of a plain row."""

    index: int
    line: int
    key: str
    form: Form
    prompt: str | Sequence[int] | Sequence[Mapping[str, Any]] = field(repr=False)
    custom_id: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    n: int = 1
    texts: Sequence[str] = ()
    metadata: Any = None
    names: Sequence[str] = ()
    """The functions whose calls are looked for in the answers."""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Of a chat, the fields of its body that say what may be called; of a response, all of its body."""
    model: str | None = None
    """The model that the row names, which need not be the one that answers."""

    @property
    def name(self) -> str:
        return f"{_PREFIX.get(self.form, 'batch_req')}_{self.index}_{self.key}"


@dataclass(frozen=True, slots=True)
class Computed:
    """What came of a row: the body of its result, the same whoever computes it and whenever, and what it cost (summed
    over its answers; times are the longest)."""

    body: Mapping[str, Any]
    stats: GenerationStats


def row_key(record: bytes) -> str:
    """16 hexadecimal digits of the hash of a row's bytes."""
    return hashlib.sha256(record).hexdigest()[:16]


def parse_name(name: object) -> tuple[int, str] | None:
    """(index, key) of a name; None for what is none."""
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    return (int(match[1]), match[2]) if match else None


def namer(row: Row, i: int = 0) -> Callable[[str], str]:
    """Names of parts of a row's answer ``i``, the same whoever computes it and whenever."""
    counter = itertools.count()

    def named(kind: str) -> str:
        return f"{kind}_{hashlib.sha256(f'{row.name}/{i}/{next(counter)}'.encode()).hexdigest()[:32]}"

    return named
