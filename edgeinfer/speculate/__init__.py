"""Speculative decoding that never loses: drafters guess, the target checks several guesses in one pass, and a model of
costs decides how many are worth it."""

from edgeinfer.speculate.base import Draft, Drafter, SteppedDrafter, Want
from edgeinfer.speculate.costs import CostCurve
from edgeinfer.speculate.speculator import Checked, Speculator

__all__ = ["Checked", "CostCurve", "Draft", "Drafter", "Speculator", "SteppedDrafter", "Want"]
