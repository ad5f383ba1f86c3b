"""Two models held against each other: one runs and is closed, then the other.

Between the two there are the first one's logits on disk, its greedy texts and its vocabulary; never two models in
memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from edgeinfer.errors import EngineError, UnsupportedModel
from edgeinfer.metrics import Distances
from edgeinfer.opening import Opened
from edgeinfer.side import Side, opened
from edgeinfer.text import Codec
from edgeinfer.text.pieces import first_difference, spellings
from edgeinfer.verify import judge
from edgeinfer.verify.forced import Told
from edgeinfer.verify.greedy import GreedyText, greedy_texts
from edgeinfer.verify.reading import Reading, read
from edgeinfer.verify.recording import Recording
from edgeinfer.verify.report import Report, SideFacts, Thresholds, forced_figures
from edgeinfer.verify.scope import Scope, Task

__all__ = ["Said", "check_vocabulary", "compare", "facts_of", "silent", "verify"]

Opener = Callable[[], AbstractContextManager[Opened]]


class Said(Protocol):
    """Hears what is being done and how far it is; 0 of 0: nobody knows."""

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None: ...


def silent(what: str, done: int = 0, total: int = 0) -> None:
    """Tells nobody."""


def verify(
    a: Side,
    b: Side,
    scope: Scope,
    limits: Thresholds | None = None,
    *,
    memory: str | int | None = None,
    said: Said = silent,
) -> Report:
    """Compare ``b`` with the reference ``a``. ``memory``: a cap on what either takes.

    Raises `UnsupportedModel`, naming both, where their vocabularies differ; `NumericError` for logits that are not
    numbers; `UsageError` where the disk has no room; what `opening.open_model` raises."""
    open_a, open_b = (functools.partial(opened, side, scope.n_ctx, memory) for side in (a, b))
    # What a process has once put under llama.cpp stays there in part: the engine's own kernels go first.
    b_first = a.kernels and not b.kernels
    return compare(open_a, open_b, (a.label, b.label), scope, limits or Thresholds(), said, b_first=b_first)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of one side when it is closed."""

    facts: SideFacts
    reading: Reading
    texts: list[GreedyText]


def compare(
    open_a: Opener,
    open_b: Opener,
    labels: tuple[str, str],
    scope: Scope,
    limits: Thresholds,
    said: Said = silent,
    *,
    b_first: bool = False,
) -> Report:
    """`verify` over anything that opens, such as a scripted engine. Each is opened once, when the other is closed:
    ``a`` first, or ``b``."""
    openers, (first, second) = (open_a, open_b), ((1, 0) if b_first else (0, 1))
    with contextlib.ExitStack() as until_compared:
        said(f"{labels[first]}: loading")
        with openers[first]() as model:
            task = Task.of(scope, model.tokenizer)
            recording = until_compared.enter_context(Recording(len(task), model.engine.n_vocab))
            words = spellings(model.tokenizer)
            reading = read(model.engine, task, _told(said, labels[first], "reading"), keep=recording)
            seen = {first: _seen(model, task, scope, labels[first], reading, said)}
        said(f"{labels[second]}: loading")
        with openers[second]() as model:
            check_vocabulary(words, model, (labels[first], labels[second]))
            told = _told(said, labels[second], "reading")
            reading = read(model.engine, task, told, against=recording, is_reference=b_first, k=scope.k)
            seen[second] = _seen(model, task, scope, labels[second], reading, said)
            return _report(seen[0], seen[1], reading.distances, task, scope, limits, model.tokenizer, recording.precise)


def _seen(model: Opened, task: Task, scope: Scope, label: str, reading: Reading, said: Said) -> _Seen:
    texts = greedy_texts(model, task.prompts, scope.n_tokens, _told(said, label, "writing"))
    return _Seen(facts_of(model, label), reading, texts)


def _report(
    a: _Seen,
    b: _Seen,
    found: Distances | None,
    task: Task,
    scope: Scope,
    limits: Thresholds,
    vocabulary: Codec,
    exact: bool,
) -> Report:
    if found is None:
        raise EngineError(f"{b.facts.label} was read without a comparison")
    parted = judge.partings(a.texts, b.texts, vocabulary, limits)
    return Report(
        a=a.facts,
        b=b.facts,
        thresholds=limits,
        forced=forced_figures(found, task.inner, scope.k, a.reading.logprobs, b.reading.logprobs),
        kl=found.kl,
        windows=tuple(map(len, task.text)),
        exact=exact,
        n_prompts=len(task.prompts),
        n_tokens=scope.n_tokens,
        n_identical=len(task.prompts) - len(parted),
        partings=parted,
        worst=judge.worst_positions(found, task, vocabulary),
        faults=judge.faults(found, parted, limits, task, vocabulary),
    )


def _told(said: Said, label: str, what: str) -> Told:
    return functools.partial(said, f"{label}: {what}")


def check_vocabulary(words: Sequence[bytes], model: Opened, labels: tuple[str, str]) -> None:
    """Raise `UnsupportedModel`, naming both models, where ``model`` does not speak of the same tokens. ``words``: the
    other's `spellings`."""
    theirs = spellings(model.tokenizer)
    at = first_difference(words, theirs)
    if at is None:
        return
    if len(words) != len(theirs):
        how = f"{len(words)} tokens against {len(theirs)}"
    else:
        how = f"token {at} is {words[at]!r} in one and {theirs[at]!r} in the other"
    raise UnsupportedModel(
        f"{labels[0]} and {labels[1]} have different vocabularies ({how}), so their logits cannot be compared"
    )


def facts_of(model: Opened, label: str) -> SideFacts:
    """What an open model is, as far as it says."""
    info = model.info
    if info is None:
        return SideFacts(label, label, "", None, None, model.notices)
    return SideFacts(label, info.name, info.architecture, info.file_bytes, info.bits_per_weight, model.notices)
