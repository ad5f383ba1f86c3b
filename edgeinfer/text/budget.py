"""What one rendering of a template may cost: steps, time, text made, nesting. Knows nothing of Jinja.

Every step of a template asks here, and no single step may be large, so that a hostile template stops soon after its
budget ends, in the caller's own thread and without a child process to kill.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from edgeinfer.errors import TemplateError

__all__ = ["Budget"]

_TIME_S = 2.0
_STEPS = 2_000_000
_OUTPUT = 1 << 20  # characters of one string, beyond what the messages bring with them
_MADE = 16  # times that, in all strings and lists that are made on the way
_DEPTH = 100  # calls within calls: each takes five Python frames of the thousand there are
_NESTING = 64  # lists within lists
_INT_BITS = 4096
_SCALARS = (str, int, float, type(None))


class Budget:
    """The limits of one rendering. ``n_input``: characters that the messages hold. Every method raises `TemplateError`.

    Limits grow with the messages, so that they bound what the template adds and never a long conversation.
    """

    def __init__(self, n_input: int = 0) -> None:
        self.largest = _OUTPUT + 4 * n_input
        self._made = _MADE * self.largest
        self._steps = _STEPS
        self._depth = 0
        self._until = time.monotonic() + _TIME_S + n_input * 1e-6
        self._weights: dict[int, tuple[Any, int]] = {}

    def step(self, n: int = 1) -> None:
        """Count ``n`` steps and look at the clock."""
        self._steps -= n
        if self._steps < 0:
            raise TemplateError(f"the chat template takes more than {_STEPS} steps")
        if time.monotonic() > self._until:
            raise TemplateError(f"the chat template takes more than {_TIME_S:g} s")

    def enter(self) -> None:
        """A call begins."""
        self._depth += 1
        if self._depth > _DEPTH:
            raise TemplateError(f"the chat template nests calls more than {_DEPTH} deep")

    def leave(self) -> None:
        """A call ends."""
        self._depth -= 1

    def fits(self, n: int) -> None:
        """A string or list has grown to ``n`` elements."""
        if n > self.largest:
            raise TemplateError(f"the chat template makes a text or list of more than {self.largest} characters")

    def allow(self, n: int) -> None:
        """A string or list of ``n`` elements is about to be made."""
        self.fits(n)
        self._made -= max(n, 0)
        if self._made < 0:
            raise TemplateError(f"the chat template makes more than {_MADE * self.largest} characters on its way")

    def charge(self, value: Any) -> Any:
        """Count a value that was made, and give it back."""
        if isinstance(value, (str, list, tuple, dict)):
            self.allow(len(value))
        return value

    def integer(self, n_bits: int) -> None:
        """An integer of so many bits is about to be made."""
        if n_bits > _INT_BITS:
            raise TemplateError(f"the chat template computes an integer of more than {_INT_BITS} bits")

    def search(self, text: str, other: object) -> None:
        """A search that takes time in proportion to both lengths multiplied is about to begin."""
        if isinstance(other, str) and len(text) * len(other) > 1 << 26:
            raise TemplateError(f"the chat template searches {len(text)} characters for {len(other)}")

    def weigh(self, value: Any, nesting: int = 0) -> int:
        """The size of a value as it would be written out. Call it before anything that walks the whole of a value.

        A list that holds another twice, which holds another twice, and so on, is small in memory but endless on paper.
        Weights are remembered: nothing that a template can reach is changed once made, but for namespaces, which weigh
        nothing here because they cannot be written.
        """
        if isinstance(value, _SCALARS):
            return len(value) + 1 if isinstance(value, str) else 1
        if isinstance(value, range):
            return self._bounded(len(value))
        if not isinstance(value, (list, tuple, dict)):
            return 1
        known = self._weights.get(id(value))
        if known is not None:
            return known[1]
        if nesting > _NESTING:
            raise TemplateError(f"the chat template nests lists more than {_NESTING} deep")
        children: Iterable[Any] = (*value.keys(), *value.values()) if isinstance(value, dict) else value
        weight = 1
        for child in children:
            weight = self._bounded(weight + self.weigh(child, nesting + 1))
        self.step(len(value))
        self._weights[id(value)] = (value, weight)  # holding the value keeps its id its own
        return weight

    def _bounded(self, weight: int) -> int:
        if weight > self.largest:
            raise TemplateError(f"the chat template makes a value of more than {self.largest} characters")
        return weight
