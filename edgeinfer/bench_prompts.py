"""What drafts win on given prompts: each is answered with and without them, in turn, by the same open model.

Greedy and through the chat template, as a user would ask. The two runs of a prompt follow each other at once and take
turns at being first, so that what else the machine does falls on both; only their ratio means much. Knows nothing of
how it is shown."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgeinfer.core import Answer
from edgeinfer.errors import UsageError
from edgeinfer.llm import LLM, Messages

__all__ = ["BenchPrompt", "Comparison", "Together", "compare", "compare_together", "context_needed", "parse", "report"]

_N_WARM_UP = 8
_CTX_STEP = 256
_CTX_SPARE = 64  # for drafts that reach past the answer's end

Said = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """A question. ``kind``: what sort of task it is; results are averaged within it first."""

    id: str
    kind: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt, answered both ways. ``*_tps``: tokens per second after the first (0 where there was only that one);
    reading the prompt with a draft model is part of it. ``identical``: the same token ids; else the answers part at
    ``first_difference``. ``drafted`` and ``accepted``: tokens of the run with drafts."""

    id: str
    kind: str
    plain_tps: float
    draft_tps: float
    identical: bool
    drafted: int
    accepted: int
    first_difference: int | None = None

    @property
    def speedup(self) -> float:
        """1.0 for an answer of one token: there was nothing to draft."""
        return self.draft_tps / self.plain_tps if self.plain_tps > 0 and self.draft_tps > 0 else 1.0

    def as_dict(self) -> dict[str, Any]:
        fields = {**asdict(self), "speedup": self.speedup}
        if self.first_difference is None:
            del fields["first_difference"]
        return fields


@dataclass(frozen=True, slots=True)
class Together:
    """All prompts at once, ``n`` of them computed at a time: tokens of all answers per second, from the first question
    to the last answer."""

    n: int
    plain_tps: float
    draft_tps: float
    identical: bool

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "speedup": self.draft_tps / self.plain_tps}


# ---- prompts


def parse(text: str, name: str) -> list[BenchPrompt]:
    """The prompts of a JSONL file: ``{"id", "kind", "prompt"}`` on each line, other keys ignored. Raises `UsageError`
    naming file and line."""
    prompts: list[BenchPrompt] = []
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at separators inside a prompt
        if not line.strip():
            continue
        try:
            prompt = _row(line)
        except ValueError as error:
            raise UsageError(f"{name}, line {number}: {error}") from error
        if prompt.id in seen:
            raise UsageError(f"{name}, line {number}: the id {prompt.id!r} was there before")
        seen.add(prompt.id)
        prompts.append(prompt)
    if not prompts:
        raise UsageError(f"{name} has no prompts; a line is {{'id': …, 'kind': …, 'prompt': …}} as JSON")
    return prompts


def _row(line: str) -> BenchPrompt:
    """Raises ValueError with what is wrong."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for key in ("id", "kind", "prompt"):
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{key!r} must be a text that is not empty")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{key!r} is not Unicode text: half a surrogate pair") from error
    return BenchPrompt(row["id"], row["kind"], row["prompt"])


def _asked(llm: LLM, prompt: BenchPrompt) -> Messages | str:
    """A model without a chat template gets the plain text."""
    return [{"role": "user", "content": prompt.prompt}] if llm.info.chat_template else prompt.prompt


def context_needed(llm: LLM, prompts: Sequence[BenchPrompt], max_tokens: int) -> int:
    """Tokens that the longest prompt and its answer take, and some room; a whole number of small steps."""
    longest = max(llm.count_tokens(_asked(llm, prompt)) for prompt in prompts)
    return -(-(longest + max_tokens + _CTX_SPARE) // _CTX_STEP) * _CTX_STEP


# ---- one after the other


def compare(llm: LLM, prompts: Sequence[BenchPrompt], max_tokens: int, said: Said) -> list[Comparison]:
    """Answer each prompt with and without drafts. Nothing of an earlier answer is reused. Raises as `LLM.stream`."""
    said("warming up")
    _warm_up(llm, prompts[0])
    found = []
    for i, prompt in enumerate(prompts):
        answers: dict[bool, Answer] = {}
        for draft in _turns(i):
            said(f"{prompt.id} ({i + 1} of {len(prompts)}) {'with' if draft else 'without'} drafts")
            llm.forget()
            answers[draft] = _answer(llm, prompt, max_tokens, draft)
        found.append(_compared(prompt, answers[False], answers[True]))
    return found


def _answer(llm: LLM, prompt: BenchPrompt, max_tokens: int, draft: bool) -> Answer:
    with llm.stream(_asked(llm, prompt), **_options(max_tokens, draft)) as stream:
        return stream.answer


def _turns(i: int) -> tuple[bool, bool]:
    """Who is first alternates."""
    return (False, True) if i % 2 == 0 else (True, False)


def _options(max_tokens: int, draft: bool) -> dict[str, Any]:
    return {"max_tokens": max_tokens, "temperature": 0.0, "draft": draft}


def _warm_up(llm: LLM, prompt: BenchPrompt) -> None:
    """Pages of weights, buffers, threads: touched before anything counts."""
    for draft in (False, True):
        llm.forget()
        _answer(llm, prompt, _N_WARM_UP, draft)


def _compared(prompt: BenchPrompt, plain: Answer, drafted: Answer) -> Comparison:
    difference = first_difference(plain.token_ids, drafted.token_ids)
    return Comparison(
        prompt.id,
        prompt.kind,
        plain.stats.decode_tps,
        drafted.stats.decode_tps,
        difference is None,
        drafted.stats.n_drafted,
        drafted.stats.n_accepted,
        difference,
    )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first position at which they differ, which may be the end of one; None where they are the same."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return None if len(one) == len(other) else min(len(one), len(other))


# ---- all at once


def compare_together(llm: LLM, prompts: Sequence[BenchPrompt], n: int, max_tokens: int, said: Said) -> Together:
    """Answer all prompts at once without and with drafts. ``llm`` was opened for ``n`` in parallel. Raises as
    `LLM.stream`."""
    said("warming up")
    _warm_up(llm, prompts[0])
    tps, answers = {}, {}
    for draft in (False, True):
        said(f"{len(prompts)} prompts, {n} at once, {'with' if draft else 'without'} drafts")
        tps[draft], answers[draft] = _all_at_once(llm, prompts, max_tokens, draft)
    return Together(n, tps[False], tps[True], answers[False] == answers[True])


def _all_at_once(
    llm: LLM, prompts: Sequence[BenchPrompt], max_tokens: int, draft: bool
) -> tuple[float, list[tuple[int, ...]]]:
    """(tokens per second of all, the answers' token ids)"""
    llm.forget()
    asked = [_asked(llm, prompt) for prompt in prompts]
    with contextlib.ExitStack() as leaving:
        begin = time.perf_counter()
        streams = [leaving.enter_context(llm.stream(each, **_options(max_tokens, draft))) for each in asked]
        answers = [stream.answer.token_ids for stream in streams]
        return sum(map(len, answers)) / (time.perf_counter() - begin), answers


# ---- all of it


def report(found: Sequence[Comparison]) -> dict[str, Any]:
    """``prompts``: the comparisons; ``by_kind``: the geometric mean of the speedups of each kind; ``geomean``: that of
    the kinds, which thus count the same however many prompts they have."""
    kinds = dict.fromkeys(comparison.kind for comparison in found)
    by_kind = {kind: geometric_mean([each.speedup for each in found if each.kind == kind]) for kind in kinds}
    return {
        "prompts": [comparison.as_dict() for comparison in found],
        "by_kind": by_kind,
        "geomean": geometric_mean(list(by_kind.values())),
    }


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one positive number."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))
