"""Two models held against each other: the reference runs first and is closed, then the other.

Between the two there are the reference's logits on disk, its greedy texts and its vocabulary; never two models in
memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from edgeinfer.errors import EngineError, UnsupportedModel
from edgeinfer.opening import Opened
from edgeinfer.side import Side, opened
from edgeinfer.text.pieces import first_difference, spellings
from edgeinfer.verify import judge
from edgeinfer.verify.forced import Told
from edgeinfer.verify.greedy import greedy_texts
from edgeinfer.verify.reading import read
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
    return compare(open_a, open_b, (a.label, b.label), scope, limits or Thresholds(), said)


def compare(
    open_a: Opener, open_b: Opener, labels: tuple[str, str], scope: Scope, limits: Thresholds, said: Said = silent
) -> Report:
    """`verify` over anything that opens, such as a scripted engine. Each is opened once, ``b`` when ``a`` is closed."""

    with contextlib.ExitStack() as until_compared:
        said(f"{labels[0]}: loading")
        with open_a() as model:
            task = Task.of(scope, model.tokenizer)
            recording = until_compared.enter_context(Recording(len(task), model.engine.n_vocab))
            ours = read(model.engine, task, _told(said, labels[0], "reading"), keep=recording)
            written = greedy_texts(model, task.prompts, scope.n_tokens, _told(said, labels[0], "writing"))
            facts, words = facts_of(model, labels[0]), spellings(model.tokenizer)
        said(f"{labels[1]}: loading")
        with open_b() as model:
            check_vocabulary(words, model, labels)
            theirs = read(model.engine, task, _told(said, labels[1], "reading"), against=recording, k=scope.k)
            texts = greedy_texts(model, task.prompts, scope.n_tokens, _told(said, labels[1], "writing"))
            parted = judge.partings(written, texts, model.tokenizer, limits)
            found = theirs.distances
            if found is None:
                raise EngineError(f"{labels[1]} was read without a comparison")
            return Report(
                a=facts,
                b=facts_of(model, labels[1]),
                thresholds=limits,
                forced=forced_figures(found, task.inner, scope.k, ours.logprobs, theirs.logprobs),
                kl=found.kl,
                windows=tuple(map(len, task.text)),
                exact=recording.precise,
                n_prompts=len(task.prompts),
                n_tokens=scope.n_tokens,
                n_identical=len(task.prompts) - len(parted),
                partings=parted,
                worst=judge.worst_positions(found, task, model.tokenizer),
                faults=judge.faults(found, parted, limits, task, model.tokenizer),
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
