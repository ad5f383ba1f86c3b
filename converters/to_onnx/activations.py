"""The values that products take and give, on a text: noted while a first graph is made, watched while that reads, and
then given the integers that a second graph keeps them in. Owns which values get how many bits; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.to_onnx.distribution import Distribution, Steps, best_steps
from edgeinfer.converters.to_onnx.passes.integer_values import Role
from edgeinfer.converters.to_onnx.smoothing import Fold

__all__ = ["Activations", "Bits"]

Floats = npt.NDArray[np.float32]
Bits = Literal[8, 16]
_HEAD = "output"
_MOST_LOST = 0.05
"""Of an activation, relative to it: what loses more with 8 bits gets 16."""


class Activations:
    """``bits`` of what is multiplied with weights. Known of no value at first, so that a graph comes to be without
    integers, and after `see` has heard of all that `names` holds, of each.

    With 8 bits, products of weights give floats, and what suffers most from so few gets 16: the logits' product,
    attention, whose least shares of thousands of tokens would all be 0, and what the text shows to."""

    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        self.factors: Mapping[str, Floats] = {}
        """What columns are divided by, by the names of `smoothing.folds`."""
        self._divisors: dict[str, Floats] = {}
        self._found: dict[str, Distribution | None] = {}
        self._steps: dict[tuple[str, int], Steps] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the values that a graph would keep as integers."""
        return tuple(self._found)

    def divide(self, factors: Mapping[str, Floats], folds: Mapping[str, Fold]) -> None:
        """Columns of the next graph, and of what is seen from now on, are divided by these."""
        self.factors = factors
        self._divisors = {value: factors[name] for name in factors for value in folds[name].values}

    def see(self, name: str, values: Floats) -> None:
        """Values of that name as they are undivided, ``(…, n_cols)``, finite."""
        found = self._found[name] = self._found.get(name) or Distribution()
        found.add(values / self._divisors[name] if name in self._divisors else values)

    def of(self, name: str, role: Role, product: str) -> Steps | None:
        bits = self._wanted(role, product)
        if bits is None:
            return None
        found = self._found.setdefault(name, None)
        if found is None:
            return None
        key = name, bits
        if key not in self._steps:
            steps = best_steps(found, bits)
            if bits == 8 and _lost(steps) > _MOST_LOST:
                steps = best_steps(found, 16)
            self._steps[key] = steps
        return self._steps[key]

    def _wanted(self, role: Role, product: str) -> Bits | None:
        if self.bits == 16 or product == _HEAD or role == "attention":
            return 16
        return 8 if role == "input" else None

    def measured(self) -> Mapping[str, float]:
        """``activation_error``: what is lost of values relative to them, as root mean squares, of the worst and of the
        middle one; ``clipped``: the share of all values that lie outside of their ranges; ``most_clipped``: of one."""
        steps = self._steps.values()
        errors = sorted(map(_lost, steps))
        n = sum(each.n for each in steps)
        return {
            "activation_bits": self.bits,
            "activation_values": len(steps),
            "activation_values_8": sum(each.bits == 8 for each in steps),
            "activation_error": errors[len(errors) // 2] if errors else 0.0,
            "most_activation_error": errors[-1] if errors else 0.0,
            "clipped": sum(each.clipped * each.n for each in steps) / max(1, n),
            "most_clipped": max((each.clipped for each in steps), default=0.0),
        }


def _lost(steps: Steps) -> float:
    """Relative to the values, as root mean squares."""
    return float((steps.error / steps.power) ** 0.5) if steps.power else 0.0
