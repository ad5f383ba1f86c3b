"""Whether what a comparison found will do, and where it first does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeinfer.metrics import Distances
from edgeinfer.text import Codec
from edgeinfer.verify.greedy import GreedyText, first_divergence
from edgeinfer.verify.report import Fault, Parting, PositionFacts, Thresholds
from edgeinfer.verify.scope import Task

__all__ = ["faults", "partings", "worst_positions"]

_N_WORST = 5
_N_BEFORE = 12  # tokens of what was read before a position


def partings(
    a: Sequence[GreedyText], b: Sequence[GreedyText], vocabulary: Codec, limits: Thresholds
) -> tuple[Parting, ...]:
    """Where greedy texts of the same prompts part."""
    found = []
    for number, (ours, theirs) in enumerate(zip(a, b, strict=True)):
        at = first_divergence(ours, theirs)
        if at is not None:
            text = vocabulary.decode(ours.token_ids[: at.token])
            choices = _name(at.id_a, vocabulary), _name(at.id_b, vocabulary)
            tie = limits.max_gap is None or at.gap_a <= limits.max_gap
            found.append(Parting(number, at.token, text, *choices, at.gap_a, at.gap_b, tie))
    return tuple(found)


def worst_positions(found: Distances, task: Task, vocabulary: Codec) -> tuple[PositionFacts, ...]:
    """The positions with the largest KL, but for the first of each window."""
    kl = np.where(task.inner, found.kl, 0.0)
    order = np.argsort(-kl, kind="stable")[: min(_N_WORST, np.count_nonzero(kl))]
    return tuple(_facts(int(row), found, task, vocabulary) for row in order)


def faults(
    found: Distances, parted: Sequence[Parting], limits: Thresholds, task: Task, vocabulary: Codec
) -> tuple[Fault, ...]:
    """The limits that were not kept. The first place at fault is the first position whose own KL is above the limit of
    the mean, the first where the likeliest tokens differ, the first prompt whose texts part without a tie."""
    made = []
    kl, agreement = float(found.kl[task.inner].mean()), float(found.agree[task.inner].mean())
    if limits.max_kl is not None and kl > limits.max_kl:
        first = _facts(int(np.argmax(task.inner & (found.kl > limits.max_kl))), found, task, vocabulary)
        what = f"the mean KL is {kl:.3g}, above {limits.max_kl:g}"
        made.append(Fault("kl", _place(first), f"{what}: first at {_place(first)}, where it is {first.kl:.3g}"))
    if limits.min_agreement is not None and agreement < limits.min_agreement:
        first = _facts(int(np.argmax(task.inner & ~found.agree)), found, task, vocabulary)
        what = f"the first choices agree at {agreement:.1%} of positions, below {limits.min_agreement:.1%}"
        choices = f"{first.choice_a!r} against {first.choice_b!r}"
        made.append(Fault("agreement", _place(first), f"{what}: they part first at {_place(first)}, {choices}"))
    bad = [one for one in parted if not one.tie]
    if bad:
        one = bad[0]
        where = f"token {one.token} of prompt {one.prompt}"
        what = f"{len(bad)} greedy texts part where the gap of the logits is above {limits.max_gap:g}"
        choices = f"{one.choice_a!r} against {one.choice_b!r}, gap {one.gap_a:.3g}"
        made.append(Fault("greedy", where, f"{what}: the first at {where}, {choices}"))
    return tuple(made)


def _facts(row: int, found: Distances, task: Task, vocabulary: Codec) -> PositionFacts:
    choices = (_name(int(ids[row]), vocabulary) for ids in (found.first_reference, found.first))
    before = vocabulary.decode(task.before(row, _N_BEFORE))
    return PositionFacts(task.position(row), float(found.kl[row]), before, *choices)


def _place(facts: PositionFacts) -> str:
    window = f" of window {facts.at.window}" if facts.at.window else ""
    return f"position {facts.at.index}{window} (after {facts.before!r})"


def _name(token_id: int, vocabulary: Codec) -> str:
    """A token as text: its own, or a control token's name."""
    text = vocabulary.decode([token_id])
    return text or next((name for name, i in vocabulary.control_tokens.items() if i == token_id), f"token {token_id}")
