"""Which token of one vocabulary is which of another: what lets a model of one family draft for one of another.

Tokens are the same when their bytes are, and both are control tokens or neither is. A token that the draft model does
not have is read by it as the tokens that spell it, and is never drafted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import UnsupportedModel
from edgeinfer.text.pieces import token_keys

__all__ = ["VocabularyMap", "match"]

Ids = npt.NDArray[np.int32]
_LEAST_OVERLAP = 0.5
_MOST_BYTES = 64  # of a token that is spelled, its last: it must not fill a draft's context


class Pieces(Protocol):
    """What is asked of a vocabulary."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def control_tokens(self) -> dict[str, int]: ...
    def all_token_bytes(self) -> list[bytes]: ...
    def encode(self, text: str) -> Ids: ...


class VocabularyMap:
    """``to_draft[i]``: the draft's id of the target's token i, -1 where it has none. ``to_target`` the reverse.
    ``spelled``: the target's tokens that the draft has not, as the draft's tokens."""

    def __init__(self, to_draft: Ids, to_target: Ids, spelled: dict[int, tuple[int, ...]]) -> None:
        self.to_draft, self.to_target = to_draft, to_target
        self._spelled = spelled
        self.n_shared = int(np.count_nonzero(to_draft >= 0))

    @classmethod
    def same(cls, n_vocab: int) -> VocabularyMap:
        """Of a vocabulary to itself."""
        ids = np.arange(n_vocab, dtype=np.int32)
        return cls(ids, ids, {})

    @property
    def overlap(self) -> float:
        """The share of the target's tokens that the draft has."""
        return self.n_shared / len(self.to_draft)

    def spell(self, token_id: int) -> tuple[int, ...]:
        """The draft's tokens for one of the target's; at least one, for padding past its vocabulary too."""
        own = int(self.to_draft[token_id]) if token_id < len(self.to_draft) else -1
        return (own,) if own >= 0 else self._spelled.get(token_id, (0,))

    def drafts(self, heads: Ids) -> Ids:
        """The target's id for each of these ids of the draft; -1 where it has none, as for padding past the draft's
        vocabulary."""
        known = heads < len(self.to_target)
        return np.where(known, self.to_target[np.where(known, heads, 0)], np.int32(-1))


def match(target: Pieces, draft: Pieces, names: tuple[str, str] = ("the target", "the draft")) -> VocabularyMap:
    """Compare two vocabularies token by token. Raises `UnsupportedModel`, naming the overlap, for a pair that shares
    too little."""
    theirs, ours = _keys(target), _keys(draft)
    by_key = {key: i for i, key in reversed(list(enumerate(ours))) if key[0]}
    to_draft = np.array(
        [i if i < len(ours) and ours[i] == key else by_key.get(key, -1) for i, key in enumerate(theirs)]
    )
    to_draft = to_draft.astype(np.int32)
    to_target = np.full(len(ours), -1, np.int32)
    known = np.flatnonzero(to_draft >= 0)[::-1]  # the lowest id of several stays
    to_target[to_draft[known]] = known
    found = VocabularyMap(to_draft, to_target, {})
    if found.overlap < _LEAST_OVERLAP:
        raise UnsupportedModel(
            f"{names[1]} cannot draft for {names[0]}: it has {found.n_shared} of its {len(theirs)} tokens "
            f"({100 * found.overlap:.0f} %), and at least {100 * _LEAST_OVERLAP:.0f} % are needed"
        )
    return VocabularyMap(to_draft, to_target, _spelled(theirs, np.flatnonzero(to_draft < 0), by_key))


def _keys(vocabulary: Pieces) -> list[tuple[bytes, bool]]:
    return token_keys(vocabulary.all_token_bytes(), vocabulary.control_tokens)


def _spelled(
    theirs: Sequence[tuple[bytes, bool]], missing: npt.NDArray[np.intp], by_key: dict[tuple[bytes, bool], int]
) -> dict[int, tuple[int, ...]]:
    """The longest tokens of the draft that spell each missing one, left to right."""
    longest = max((len(piece) for piece, control in by_key if not control), default=0)
    spelled = {}
    for i in missing.tolist():
        rest, control = theirs[i]
        rest = rest[-_MOST_BYTES:]
        ids: list[int] = []
        while rest and not control:
            for n in range(min(longest, len(rest)), 0, -1):
                if (rest[:n], False) in by_key:
                    break
            ids += [by_key[rest[:n], False]] if (rest[:n], False) in by_key else []
            rest = rest[n:]
        if ids:
            spelled[i] = tuple(ids)
    return spelled
