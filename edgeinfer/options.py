"""What can be asked of one request: how to sample, until when, and what to do when the prompt is too long."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeinfer.core import SamplingParams
from edgeinfer.errors import UsageError
from edgeinfer.prompt import OVERFLOW_POLICIES, OverflowPolicy

__all__ = ["RequestOptions"]

_SAMPLING = {field.name for field in dataclasses.fields(SamplingParams)}
_OWN = {"deadline_s", "draft", "on_overflow", "tools"}


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """Options of one request. ``deadline_s``: seconds from submission after which it ends with what it has (None:
    never). ``draft``: whether the model's drafters, if it has any, may guess ahead; the answer is the same. ``tools``:
    what the chat template tells the model that it may call, as JSON values; None for none."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    deadline_s: float | None = None
    draft: bool = True
    on_overflow: OverflowPolicy = "error"
    tools: Sequence[Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.deadline_s is not None and not (math.isfinite(self.deadline_s) and self.deadline_s > 0):
            raise UsageError(f"deadline_s is {self.deadline_s!r}, but must be a number of seconds above 0")
        if not isinstance(self.draft, bool):
            raise UsageError(f"draft is {self.draft!r}, but must be true or false for one request")
        if self.on_overflow not in OVERFLOW_POLICIES:
            raise UsageError(f"on_overflow is {self.on_overflow!r}, but must be one of {', '.join(OVERFLOW_POLICIES)}")

    def updated(self, options: Mapping[str, Any]) -> RequestOptions:
        """These options with some replaced. An unknown name is a `UsageError` that names close ones; so is a value of
        a wrong type."""
        for name in options:
            if name not in _SAMPLING | _OWN:
                close = difflib.get_close_matches(name, sorted(_SAMPLING | _OWN), 1)
                raise UsageError(f"no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        own = {name: value for name, value in options.items() if name in _OWN}
        chosen = {name: value for name, value in options.items() if name in _SAMPLING}
        if isinstance(chosen.get("stop"), str):
            chosen["stop"] = (chosen["stop"],)
        elif "stop" in chosen:
            chosen["stop"] = tuple(chosen["stop"] or ())
        try:
            return dataclasses.replace(self, sampling=dataclasses.replace(self.sampling, **chosen), **own)
        except TypeError as error:
            raise UsageError(f"an option has a value of the wrong type: {error}") from error
