"""What an evaluation found: a row for each model, and the limits that a build must keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeinfer import files
from edgeinfer.errors import UsageError
from edgeinfer.metrics import Estimate
from edgeinfer.reports.data import finite

__all__ = ["GATES", "Divergence", "Gate", "Row", "as_document", "cells", "check_gates", "failures", "headings"]


@dataclass(frozen=True, slots=True)
class Divergence:
    """From the reference, along the text but for the first position of each window: KL in nats, and the share of
    positions where both find the same token likeliest. ``exact``: logits were compared as they came, not in half
    precision, which long texts of large vocabularies are kept in."""

    kl_mean: float
    kl_median: float
    kl_p99: float
    agreement: Estimate
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One model. Sizes None where the model does not say. ``perplexity_ratio`` and ``divergence``: from the reference,
    None without one and for itself. ``tasks``: the share of right answers by set. Speeds in tokens per second, of a
    prompt as long as the window; ``peak_bytes``: resident, of a process that answers it and does nothing else."""

    label: str
    name: str
    file_bytes: int | None
    bits_per_weight: float | None
    perplexity: Estimate
    prefill_tps: float
    decode_tps: float
    peak_bytes: int
    perplexity_ratio: Estimate | None = None
    divergence: Divergence | None = None
    tasks: Mapping[str, Estimate] = field(default_factory=dict)
    is_reference: bool = False
    notices: tuple[str, ...] = ()


# ---- gates


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit: the figure called ``name`` (without max- or min-) must not be above, or below, ``bound``."""

    name: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """``max-kl=0.02``. Raises `UsageError` naming the known ones."""
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in GATES:
            raise UsageError(f"no gate {name!r}; there are: {', '.join(GATES)}")
        try:
            bound = float(files.parse_bytes(value)) if name in _OF_BYTES else float(value)
        except (ValueError, UsageError) as error:
            what = "a size such as 2G" if name in _OF_BYTES else "a number"
            raise UsageError(f"gate {text!r}: write {what} after the =") from error
        if not math.isfinite(bound) or bound < 0:
            raise UsageError(f"gate {text!r}: the limit must be at least 0")
        return cls(name, bound)

    def check(self, row: Row) -> str | None:
        """What is wrong with the row; None when nothing is. A figure that is missing is wrong."""
        value = GATES[self.name](row)
        least = self.name.startswith("min-")
        if value is not None and (value >= self.bound if least else value <= self.bound):
            return None
        shown = "not known" if value is None else f"{value:.6g}"
        return f"{self.name[4:]} is {shown}, {'below' if least else 'above'} {self.bound:.6g}"


def _of(get: Callable[[Divergence], float]) -> Callable[[Row], float | None]:
    return lambda row: None if row.divergence is None else get(row.divergence)


def _task(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.tasks[name].value if name in row.tasks else None


GATES: dict[str, Callable[[Row], float | None]] = {
    "max-kl": _of(lambda found: found.kl_mean),
    "max-kl-median": _of(lambda found: found.kl_median),
    "max-kl-p99": _of(lambda found: found.kl_p99),
    "min-agreement": _of(lambda found: found.agreement.value),
    "max-perplexity": lambda row: row.perplexity.value,
    "max-ratio": lambda row: None if row.perplexity_ratio is None else row.perplexity_ratio.value,
    "min-facts": _task("facts"),
    "min-arithmetic": _task("arithmetic"),
    "min-code": _task("code"),
    "max-size": lambda row: row.file_bytes,
    "max-bits": lambda row: row.bits_per_weight,
    "min-prefill": lambda row: row.prefill_tps,
    "min-decode": lambda row: row.decode_tps,
    "max-memory": lambda row: row.peak_bytes,
}
"""What ``--gate`` may hold: its name and the figure of a row."""

_OF_BYTES = ("max-size", "max-memory")
_OF_REFERENCE = ("max-kl", "max-kl-median", "max-kl-p99", "min-agreement", "max-ratio")


def check_gates(gates: Sequence[Gate], *, has_reference: bool, tasks: Sequence[str]) -> None:
    """Raise `UsageError` for a gate on a figure that will not be measured."""
    for gate in gates:
        if gate.name in _OF_REFERENCE and not has_reference:
            raise UsageError(f"gate {gate.name} needs a reference: give --against MODEL")
        if gate.name in ("min-facts", "min-arithmetic", "min-code") and gate.name[4:] not in tasks:
            raise UsageError(f"gate {gate.name} needs the tasks: add {gate.name[4:]} to --tasks")


def failures(rows: Sequence[Row], gates: Sequence[Gate]) -> list[str]:
    """What does not keep the gates, a line each; the reference is not held to them."""
    found = [(row, gate.check(row)) for row in rows if not row.is_reference for gate in gates]
    return [f"{row.label}: {what}" for row, what in found if what is not None]


# ---- shown


def headings(rows: Sequence[Row]) -> list[str]:
    """Of `cells`."""
    names = ["model", "size (MB)", "bits/weight", "perplexity"]
    if any(row.is_reference for row in rows):
        names += ["ratio", "mean KL", "median KL", "99 % KL", "same first"]
    return [*names, *_tasks(rows), "prefill t/s", "decode t/s", "memory (MB)"]


def cells(row: Row, rows: Sequence[Row]) -> list[str]:
    """A row of the table; ``rows``: all of them."""
    size = "" if row.file_bytes is None else f"{row.file_bytes / 1e6:.1f}"
    bits = "" if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}"
    found = [row.label, size, bits, f"{row.perplexity.value:.3f} ± {_reach(row.perplexity):.3f}"]
    if any(one.is_reference for one in rows):
        if row.divergence is None or row.perplexity_ratio is None:
            found += ["reference", "", "", "", ""]
        else:
            apart = row.divergence
            found += [f"{row.perplexity_ratio.value:.4f} ± {_reach(row.perplexity_ratio):.4f}"]
            found += [f"{kl:.5f}" for kl in (apart.kl_mean, apart.kl_median, apart.kl_p99)]
            found += [f"{apart.agreement.value:.1%}"]
    found += [f"{row.tasks[name].value:.0%}" for name in _tasks(rows)]
    return [*found, f"{row.prefill_tps:.1f}", f"{row.decode_tps:.1f}", f"{row.peak_bytes / 1e6:.0f}"]


def _tasks(rows: Sequence[Row]) -> list[str]:
    return list(rows[0].tasks) if rows else []


def _reach(estimate: Estimate) -> float:
    """Half an interval, as the sign ± has it."""
    return (estimate.high - estimate.low) / 2


def as_document(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain data for JSON; what is not a finite number is None."""
    return [finite(asdict(row)) for row in rows]
