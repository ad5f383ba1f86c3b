"""What a comparison found, and whether that will do: figures, limits, and the first place at fault. Draws nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeinfer import metrics
from edgeinfer.errors import UsageError
from edgeinfer.metrics import Distances, Estimate
from edgeinfer.reports.data import finite
from edgeinfer.verify.forced import Position

Numbers = npt.NDArray[np.float64]

__all__ = ["Fault", "ForcedFigures", "Parting", "PositionFacts", "Report", "SideFacts", "Thresholds", "forced_figures"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """``max_kl``: of the mean KL, in nats. ``min_agreement``: of the share of positions with the same first choice.
    ``max_gap``: greedy texts may part where the reference's logits of the two choices are within this. None: not
    looked at. Raises `UsageError` for what no figure can meet."""

    max_kl: float | None = 0.01
    min_agreement: float | None = 0.9
    max_gap: float | None = 0.05

    def __post_init__(self) -> None:
        for name, high in (("max_kl", math.inf), ("min_agreement", 1.0), ("max_gap", math.inf)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= high:
                most = "" if high == math.inf else f" and at most {high:g}"
                raise UsageError(f"{name} is {value}, but must be at least 0{most}")


@dataclass(frozen=True, slots=True)
class SideFacts:
    """What was compared. ``label`` is how it was asked for; sizes None where the model does not say.
    ``notices``: what is unusual about how it was opened."""

    label: str
    name: str
    architecture: str
    file_bytes: int | None
    bits_per_weight: float | None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PositionFacts:
    """One position of the text: what both expect after reading up to it. ``before``: the end of what was read."""

    at: Position
    kl: float
    before: str
    choice_a: str
    choice_b: str


@dataclass(frozen=True, slots=True)
class ForcedFigures:
    """Along the text. Position 0 of each window is left out of everything but ``kl_first``, its mean KL there: with
    nothing read, some models' activations are huge and rounding shows. ``overlap``: of the ``k`` likeliest tokens.
    ``difference``: the largest of any logit; 0: the same bits. ``kl_p99``: 99 of 100 positions are not above it."""

    n_positions: int
    kl_mean: float
    kl_median: float
    kl_p99: float
    kl_max: float
    kl_first: float
    agreement: float
    k: int
    overlap: float
    difference: float
    perplexity_a: Estimate
    perplexity_b: Estimate
    perplexity_ratio: Estimate


@dataclass(frozen=True, slots=True)
class Parting:
    """Where the greedy texts of a prompt part: after ``token`` common tokens, ``text``. ``tie``: excused."""

    prompt: int
    token: int
    text: str
    choice_a: str
    choice_b: str
    gap_a: float
    gap_b: float
    tie: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """A limit that was not kept, and where first."""

    what: Literal["kl", "agreement", "greedy"]
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """``a`` is the reference. ``kl``: of every position in order, position 0 included; ``windows``: how many of them
    each window has. ``exact``: logits were compared as they came, not in half precision."""

    a: SideFacts
    b: SideFacts
    thresholds: Thresholds
    forced: ForcedFigures
    kl: npt.NDArray[np.float64] = field(repr=False)
    windows: tuple[int, ...]
    exact: bool
    n_prompts: int
    n_tokens: int
    n_identical: int
    partings: tuple[Parting, ...]
    worst: tuple[PositionFacts, ...]
    faults: tuple[Fault, ...]

    @property
    def passed(self) -> bool:
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is not a finite number is None."""
        greedy = {
            "n_prompts": self.n_prompts,
            "n_tokens": self.n_tokens,
            "n_identical": self.n_identical,
            "n_ties": sum(one.tie for one in self.partings),
            "first_divergences": [asdict(one) for one in self.partings],
        }
        document = {
            "a": asdict(self.a),
            "b": asdict(self.b),
            "forced": {**asdict(self.forced), "exact": self.exact},
            "greedy": greedy,
            "worst": [asdict(one) for one in self.worst],
            "thresholds": asdict(self.thresholds),
            "faults": [asdict(one) for one in self.faults],
            "passed": self.passed,
        }
        plain: dict[str, Any] = finite(document)
        return plain


def forced_figures(
    found: Distances, inner: npt.NDArray[np.bool_], k: int, logprobs_a: Numbers, logprobs_b: Numbers
) -> ForcedFigures:
    """``inner``: which positions are not the first of their window. ``logprobs``: of the tokens that came."""
    kl, ours, theirs = found.kl[inner], logprobs_a[inner], logprobs_b[inner]
    return ForcedFigures(
        n_positions=int(inner.sum()),
        kl_mean=float(kl.mean()),
        kl_median=float(np.median(kl)),
        kl_p99=float(np.percentile(kl, 99)),
        kl_max=float(kl.max()),
        kl_first=float(found.kl[~inner].mean()),
        agreement=float(found.agree[inner].mean()),
        k=k,
        overlap=float(found.overlap[inner].mean()),
        difference=float(found.difference[inner].max()),
        perplexity_a=metrics.perplexity(ours),
        perplexity_b=metrics.perplexity(theirs),
        perplexity_ratio=metrics.perplexity_ratio(theirs, ours),
    )
