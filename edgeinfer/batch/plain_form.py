"""Our own lines: ``{"prompt": …}`` or ``{"messages": …}`` with parameters beside them in; the text and little else out.

    {"prompt": "…" or "messages": […], "custom_id" or "id": "…", "system": "…", "metadata": …, "max_tokens": 64, …}
    {"id": "row_17_0123456789abcdef", "custom_id": …, "index": 17, "text": "…", "finish_reason": "stop",
     "usage": {"prompt_tokens": 12, "completion_tokens": 34}, "metadata": …, "logprobs": […]}

``metadata`` and ``logprobs`` are there where the row asks for them. With a template, a row is columns (of a CSV or
Parquet file, or the fields of a JSON line), and everything but ``custom_id`` or ``id`` is text for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeinfer.batch.fields import JsonObject, custom_id_of, messages_of, options_of, text_of
from edgeinfer.batch.rows import Computed, Row, RowError
from edgeinfer.batch.template import PromptTemplate
from edgeinfer.core import Answer, Token

__all__ = ["PlainJob", "line_of", "plain_body", "read"]

_KNOWN = {"prompt", "messages", "custom_id", "id", "system", "metadata", "logprobs"}


@dataclass(frozen=True, slots=True)
class PlainJob:
    """What a job says about its plain rows. ``template``: the prompt, made of columns. ``system``: a system message for
    rows that bring none. ``raw``: prompts are continued as they stand instead of being put into the chat template."""

    template: PromptTemplate | None = None
    system: str | None = None
    raw: bool = False


def read(
    record: JsonObject, job: PlainJob, defaults: Mapping[str, Any], index: int, line: int, key: str, seed: int
) -> Row:
    """The row. Raises `RowError`."""
    prompt: Any
    if job.template is not None:
        prompt = job.template.fill(record)
        record = {name: record[name] for name in ("custom_id", "id") if name in record}
    else:
        prompt = record.get("prompt")
    given = [name for name, value in (("prompt", prompt), ("messages", record.get("messages"))) if value is not None]
    options, _ = options_of(record, defaults, seed, _KNOWN)
    logprobs = record.get("logprobs")
    if logprobs is not None:
        if type(logprobs) is not int or not 0 <= logprobs <= 100:
            raise RowError("logprobs must be between 0 and 100")
        options["logprobs"] = logprobs
    if len(given) != 1:
        raise RowError("give one of prompt and messages" if given else "prompt or messages missing")
    system = job.system if record.get("system") is None else text_of(record["system"], "system")
    asked: Any
    if prompt is None:
        asked = messages_of(record["messages"])
        if system is not None and asked[0]["role"] not in ("system", "developer"):
            asked.insert(0, {"role": "system", "content": system})
    else:
        asked = _asked(text_of(prompt, "prompt"), system, job.raw)
    custom_id = custom_id_of(record, "custom_id", "id")
    return Row(index, line, key, "plain", asked, custom_id, options, metadata=record.get("metadata"))


def _asked(prompt: str, system: str | None, raw: bool) -> str | list[dict[str, str]]:
    if not prompt.strip():
        raise RowError("the prompt is empty")
    if raw:
        return prompt
    messages = [{"role": "system", "content": system}] if system is not None else []
    return [*messages, {"role": "user", "content": prompt}]


def line_of(row: Row, computed: Computed) -> dict[str, Any]:
    """The line of the output."""
    head = {"id": row.name, "custom_id": row.custom_id, "index": row.index}
    return {**head, **computed.body, **({} if row.metadata is None else {"metadata": row.metadata})}


def plain_body(row: Row, answer: Answer) -> dict[str, Any]:
    """Text, finish reason and usage."""
    body: dict[str, Any] = {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": {"prompt_tokens": answer.stats.n_prompt, "completion_tokens": answer.stats.n_generated},
    }
    if answer.n_dropped:
        body["dropped"] = answer.n_dropped
    if row.options.get("logprobs") is not None:
        body["logprobs"] = [_logprob(token) for token in answer.tokens if token.id >= 0]
    return body


def _logprob(token: Token) -> dict[str, Any]:
    top: Sequence[dict[str, Any]] = [{"id": one.token_id, "logprob": _finite(one.logprob)} for one in token.top]
    return {"id": token.id, "text": token.text, "logprob": _finite(token.logprob), "top": top}


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
