"""What models are compared on: a text and prompts, and the same as tokens, which every model of a comparison reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import UsageError
from edgeinfer.text import Codec
from edgeinfer.verify.forced import Position, TokenIds, Window, windows

__all__ = ["Scope", "Task", "shipped_prompts", "shipped_text"]

_CTX_STEP = 256


@dataclass(frozen=True, slots=True)
class Scope:
    """So many positions of a text, read in windows of ``n_window``, and the continuation of each prompt by
    ``n_tokens``; without prompts, the text alone. ``k``: of how many likeliest tokens the overlap is looked at. Raises
    `UsageError`."""

    text: str
    prompts: tuple[str, ...] = ()
    n_positions: int = 512
    n_window: int = 512
    n_tokens: int = 48
    k: int = 10

    def __post_init__(self) -> None:
        for name, least in (("n_positions", 2), ("n_window", 2), ("n_tokens", 1), ("k", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least {least}")

    @property
    def n_ctx(self) -> int:
        """A context that everything fits into, whatever the vocabulary: a token has at least one byte."""
        longest = max((len(prompt.encode()) for prompt in self.prompts), default=0)
        needed = max(min(self.n_window, self.n_positions), longest + self.n_tokens + 2 if longest else 0)
        return -(-needed // _CTX_STEP) * _CTX_STEP


@dataclass(frozen=True, slots=True)
class Task:
    """A scope in tokens. ``targets``: which token came at each position, in order. ``inner``: which positions are not
    the first of their window."""

    text: tuple[Window, ...]
    prompts: tuple[TokenIds, ...]
    targets: TokenIds
    inner: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, scope: Scope, tokenizer: Codec) -> Task:
        """Tokenize once, for all models of a comparison. Raises `UsageError` for a text that is too short."""
        bos_id = tokenizer.bos_id if tokenizer.adds_bos else None
        text = windows(tokenizer.encode(scope.text), scope.n_positions, scope.n_window, bos_id)
        prompts = tuple(tokenizer.encode(prompt, add_bos=tokenizer.adds_bos) for prompt in scope.prompts)
        targets = np.concatenate([window.targets for window in text])
        inner = np.concatenate([np.arange(len(window)) > 0 for window in text])
        return cls(text, prompts, targets, inner)

    def __len__(self) -> int:
        return len(self.targets)

    def position(self, row: int) -> Position:
        """Where in the text a row is."""
        starts = np.cumsum([0, *map(len, self.text)])
        window = int(np.searchsorted(starts, row, side="right")) - 1
        return Position(window, row - int(starts[window]))

    def before(self, row: int, n_tokens: int) -> TokenIds:
        """The last tokens that were read when the row was computed."""
        at = self.position(row)
        return self.text[at.window].inputs[max(0, at.index + 1 - n_tokens) : at.index + 1]


def shipped_text() -> str:
    """Prose, dialogue, code, numbers and several scripts, written for this purpose."""
    return (resources.files("edgeinfer.verify") / "text.txt").read_text(encoding="utf-8")


def shipped_prompts() -> tuple[str, ...]:
    """Beginnings of texts of several kinds, written for this purpose."""
    lines = (resources.files("edgeinfer.verify") / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line)["prompt"] for line in lines)
