"""What a drafter's confidence is worth: how often tokens of such confidence turned out right, in this request and in
those before it.

A drafter's own probability is a prior, no more: a model that saw other data is sure of the wrong things, and a repeat
in the text is worth much in an edit and little in a story."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Calibration", "Record"]

_EDGES = np.array([0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.995])
_N_BINS = len(_EDGES) + 1
_OWN_WORD = 6.0  # the drafter's own estimate counts like so many tokens seen
_OTHERS_WORD = 10.0  # and what other requests saw like so many of this one's
_FADE_ALL = 0.998  # per token seen in a bin: some 500 tokens are remembered
_FADE_ONE = 0.98


class _Counts:
    """Tokens tried and tokens right, by confidence."""

    def __init__(self, fade: float) -> None:
        self.tried: npt.NDArray[np.float64] = np.zeros(_N_BINS)
        self.right: npt.NDArray[np.float64] = np.zeros(_N_BINS)
        self._fade = fade

    def add(self, place: int, right: bool) -> None:
        self.tried[place] = self.tried[place] * self._fade + 1
        self.right[place] = self.right[place] * self._fade + right


def _bin(confidence: float) -> int:
    return int(np.searchsorted(_EDGES, confidence, side="right"))


class Calibration:
    """What all requests have shown about one drafter."""

    def __init__(self) -> None:
        self._all = _Counts(_FADE_ALL)

    def record(self) -> Record:
        """The view of one more request."""
        return Record(self._all)


class Record:
    """What one request has shown about one drafter, on top of what others have."""

    def __init__(self, everybody: _Counts) -> None:
        self._all = everybody
        self._own = _Counts(_FADE_ONE)

    def chance(self, confidence: float) -> float:
        """The probability that a token of this confidence is right."""
        place = _bin(confidence)
        prior = (self._all.right[place] + _OWN_WORD * confidence) / (self._all.tried[place] + _OWN_WORD)
        own = self._own
        return float((own.right[place] + _OTHERS_WORD * prior) / (own.tried[place] + _OTHERS_WORD))

    def typical(self, prior: float) -> float:
        """The probability that the next token is right before its confidence is known. ``prior`` is what a drafter of
        which nothing is known yet gets."""
        everybody = (self._all.right.sum() + _OWN_WORD * prior) / (self._all.tried.sum() + _OWN_WORD)
        own = self._own
        return float((own.right.sum() + _OTHERS_WORD * everybody) / (own.tried.sum() + _OTHERS_WORD))

    def saw(self, confidence: float, right: bool) -> None:
        """A drafted token was checked, and everything before it was right."""
        place = _bin(confidence)
        self._own.add(place, right)
        self._all.add(place, right)

    def fade(self) -> None:
        """A token was made without a draft: failures of long ago say less and less about what comes."""
        self._own.tried *= _FADE_ONE
        self._own.right *= _FADE_ONE
