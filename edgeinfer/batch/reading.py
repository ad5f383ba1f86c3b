"""From rows as the input has them to rows that can be computed, by what the job says about them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgeinfer.batch import openai_form, plain_form
from edgeinfer.batch.fields import custom_id_of, parse_object
from edgeinfer.batch.plain_form import PlainJob
from edgeinfer.batch.rows import Raw, Row, RowError, row_key
from edgeinfer.batch.sources import Source
from edgeinfer.batch.template import PromptTemplate
from edgeinfer.core import Grammar, SamplingParams
from edgeinfer.errors import UsageError
from edgeinfer.options import RequestOptions

__all__ = ["Job", "job_for"]

_COLUMNS = ("messages", "custom_id", "id")


@dataclass(frozen=True, slots=True)
class Job:
    """What is the same for all rows. ``defaults``: options of a request that a row does not set itself."""

    plain: PlainJob = field(default_factory=PlainJob)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    has_columns: bool = False

    def read(self, raw: Raw) -> Row:
        """The row. Raises `RowError`."""
        if raw.problem is not None:
            raise RowError(raw.problem)
        record = parse_object(raw.record) if isinstance(raw.record, bytes) else raw.record
        try:
            return self._read(raw, record)
        except RowError as error:
            with contextlib.suppress(RowError):
                error.custom_id = custom_id_of(record, "custom_id", "id")
            raise

    def _read(self, raw: Raw, record: Mapping[str, Any]) -> Row:
        # A seed that nobody gives follows from the row: then a job that samples can be interrupted too.
        seed = int(row_key(raw.name.encode()), 16) >> 1
        place = (raw.index, raw.line, raw.key, seed)
        if self.plain.template is None and not self.has_columns and openai_form.is_openai(record):
            return openai_form.read(record, self.defaults, *place)
        if self.plain.template is None and self.has_columns:
            record = {name: record[name] for name in _COLUMNS if record.get(name) is not None}
        return plain_form.read(record, self.plain, self.defaults, *place)

    def facts(self) -> dict[str, Any]:
        """What the manifest keeps: whatever results depend on and is not the default."""
        plain = SamplingParams()
        told = {name: _told(value) for name, value in self.defaults.items() if value != getattr(plain, name, None)}
        template = self.plain.template
        more = {"template": template and template.source, "system": self.plain.system, "raw": self.plain.raw or None}
        return {**told, **{name: value for name, value in more.items() if value is not None}}


def _told(value: Any) -> Any:
    if isinstance(value, Grammar):
        return {"kind": value.kind, "source": value.source}
    return json.loads(json.dumps(value))


def job_for(source: Source, plain: PlainJob, defaults: Mapping[str, Any]) -> Job:
    """Raises `UsageError` for defaults that cannot be, and for columns that make no prompt."""
    RequestOptions().updated(defaults)
    if source.columns is None:
        return Job(plain, defaults)
    names = ", ".join(map(repr, source.columns))
    if plain.template is None and "prompt" in source.columns:
        plain = replace(plain, template=PromptTemplate("{prompt}"))
    if plain.template is None and "messages" not in source.columns:
        raise UsageError(f"no column 'prompt' among {names}; make one: --prompt-template 'Summarise: {{text}}'")
    missing = [name for name in (plain.template.columns if plain.template else ()) if name not in source.columns]
    if missing:
        raise UsageError(f"the prompt template uses {', '.join(map(repr, missing))}; the columns are {names}")
    return Job(plain, defaults, has_columns=True)
