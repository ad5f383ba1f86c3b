"""One model's reading of a text: what it gave each token that came, kept for the models after it, or held against what
one before it gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer import metrics
from edgeinfer.engines import Engine
from edgeinfer.metrics import Distances
from edgeinfer.verify.forced import Told, logit_rows
from edgeinfer.verify.recording import Recording
from edgeinfer.verify.scope import Task

__all__ = ["Reading", "read"]


@dataclass(frozen=True, slots=True)
class Reading:
    """``logprobs``: of the token that came at each position. ``distances`` from a recording, position by position."""

    logprobs: npt.NDArray[np.float64]
    distances: Distances | None = None


def read(
    engine: Engine,
    task: Task,
    told: Told,
    *,
    keep: Recording | None = None,
    against: Recording | None = None,
    is_reference: bool = False,
    k: int = 10,
) -> Reading:
    """Read the task's text. ``keep``: record the logits there. ``against``: compare them with these, which are the
    reference's unless this model ``is_reference``. Raises as `forced.logit_rows`."""
    logprobs, parts, at = [], [], 0
    if against is not None:
        against.rewind()
    for rows in logit_rows(engine, task.text, told):
        logprobs.append(metrics.token_logprobs(rows, task.targets[at : at + len(rows)]))
        at += len(rows)
        if keep is not None:
            keep.append(rows)
        if against is not None:
            pair = against.read(len(rows)), against.stored(rows)
            parts.append(metrics.distances(*(pair[::-1] if is_reference else pair), k))
    return Reading(np.concatenate(logprobs), Distances.joined(parts) if parts else None)
