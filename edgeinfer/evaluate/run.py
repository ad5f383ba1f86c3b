"""Models examined one after the other, each closed before the next opens: along a text, on small tasks, by the clock.

The reference, if there is one, goes first; its logits wait on disk for the others."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from edgeinfer import metrics
from edgeinfer.evaluate.clock import Cost, TokenIds, cost_alone, cost_here
from edgeinfer.evaluate.report import Divergence, Row
from edgeinfer.evaluate.tasks import Question, score
from edgeinfer.metrics import Estimate
from edgeinfer.opening import Opened
from edgeinfer.side import Side, opened
from edgeinfer.text.pieces import spellings
from edgeinfer.verify.compare import Said, check_vocabulary, facts_of, silent
from edgeinfer.verify.reading import Reading, read
from edgeinfer.verify.recording import Recording
from edgeinfer.verify.scope import Scope, Task

__all__ = ["Plan", "evaluate", "examine"]

_LEAST_CTX = 512  # room for the longest question of the sets that ship

Opener = Callable[[], AbstractContextManager[Opened]]
Clock = Callable[[int, TokenIds], Cost]
"""Asked for the cost of the model of a number, of a prompt, when that model is closed again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What each model is examined on: a text, and questions by the name of their set."""

    scope: Scope
    questions: Mapping[str, Sequence[Question]]

    @property
    def n_ctx(self) -> int:
        return max(self.scope.n_ctx, _LEAST_CTX)


@dataclass(frozen=True, slots=True)
class _Reference:
    """What is kept of the reference. ``task``: the text in its tokens, which all others read; ``words``: its
    vocabulary."""

    label: str
    task: Task
    words: Sequence[bytes]
    recording: Recording
    reading: Reading


def evaluate(
    models: Sequence[Side],
    plan: Plan,
    reference: Side | None = None,
    *,
    memory: str | int | None = None,
    said: Said = silent,
) -> list[Row]:
    """A row for each model, the reference's first.

    Raises `UnsupportedModel` where a model has another vocabulary than the reference, and as `verify.verify`."""
    sides = ([] if reference is None else [reference]) + list(models)
    openers = [(side.label, functools.partial(opened, side, plan.n_ctx, memory)) for side in sides]

    def clock(number: int, ids: TokenIds) -> Cost:
        return cost_alone(sides[number], plan.n_ctx, memory, ids)

    return examine(openers, plan, has_reference=reference is not None, said=said, clock=clock)


def examine(
    openers: Sequence[tuple[str, Opener]],
    plan: Plan,
    *,
    has_reference: bool,
    said: Said = silent,
    clock: Clock | None = None,
) -> list[Row]:
    """`evaluate` over anything that opens, each with its label; with a reference it is the first. Without a ``clock``
    costs are taken in this process. Raises `UnsupportedModel` for an encoder."""
    rows: list[Row] = []
    reference: _Reference | None = None
    with contextlib.ExitStack() as until_done:
        for label, opener in openers:
            said(f"{label}: loading")
            with opener() as model:
                model.embedding.check_generates()
                keeps = has_reference and not rows
                if reference is not None:
                    check_vocabulary(reference.words, model, (reference.label, label))
                task = reference.task if reference is not None else Task.of(plan.scope, model.tokenizer)
                keep = None
                if keeps:
                    keep = until_done.enter_context(Recording(len(task), model.engine.n_vocab))
                told = functools.partial(said, f"{label}: reading")
                against = reference.recording if reference is not None else None
                reading = read(model.engine, task, told, keep=keep, against=against, k=1)
                if keep is not None:
                    reference = _Reference(label, task, spellings(model.tokenizer), keep, reading)
                row = _row(model, label, task, reading, None if keeps else reference)
                tasks = _tasks(model, plan, functools.partial(said, f"{label}: tasks"))
                said(f"{label}: speed")
                ids = task.text[0].inputs
                cost = cost_here(model, ids) if clock is None else Cost(0.0, 0.0, 0)
            cost = cost if clock is None else clock(len(rows), ids)
            rows.append(dataclasses.replace(row, tasks=tasks, is_reference=keeps, **dataclasses.asdict(cost)))
    return rows


def _row(model: Opened, label: str, task: Task, reading: Reading, reference: _Reference | None) -> Row:
    """What the text says; costs are not known yet."""
    facts, ours = facts_of(model, label), reading.logprobs[task.inner]
    ratio = divergence = None
    if reference is not None and reading.distances is not None:
        ratio = metrics.perplexity_ratio(ours, reference.reading.logprobs[task.inner])
        kl, agree = reading.distances.kl[task.inner], reading.distances.agree[task.inner]
        divergence = Divergence(
            float(kl.mean()),
            float(np.median(kl)),
            float(np.percentile(kl, 99)),
            metrics.proportion(int(agree.sum()), len(agree)),
            reference.recording.precise,
        )
    return Row(
        label=label,
        name=facts.name,
        file_bytes=facts.file_bytes,
        bits_per_weight=facts.bits_per_weight,
        perplexity=metrics.perplexity(ours),
        prefill_tps=0.0,
        decode_tps=0.0,
        peak_bytes=0,
        perplexity_ratio=ratio,
        divergence=divergence,
        notices=facts.notices,
    )


def _tasks(model: Opened, plan: Plan, told: Callable[[int, int], None]) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    total = sum(map(len, plan.questions.values()))
    done = 0

    def told_of_all(n_asked: int, _total: int) -> None:
        told(done + n_asked, total)

    for name, asked in plan.questions.items():
        found[name] = score(model.engine, model.tokenizer, asked, told_of_all)
        done += len(asked)
    return found
