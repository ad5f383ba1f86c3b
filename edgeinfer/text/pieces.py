"""What the tokens of a vocabulary are, so that two vocabularies can be compared. Knows no models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edgeinfer.text.tokenizer import Tokenizer, Vocabulary

__all__ = ["first_difference", "spellings", "token_keys"]


def token_keys(pieces: Iterable[bytes], control_tokens: Mapping[str, int]) -> list[tuple[bytes, bool]]:
    """Of each token its bytes, or its name where it is a control token, and whether it is one. Tokens with the same key
    are the same token; ``b""`` is none. ``pieces``: the bytes of every id."""
    control = set(control_tokens.values())
    names = {i: text.encode() for text, i in control_tokens.items()}
    return [(names.get(i, piece), i in control) for i, piece in enumerate(pieces)]


def spellings(vocabulary: Vocabulary) -> list[bytes]:
    """Of each token its bytes or its name. Converters differ in which tokens they call control tokens, so this, and not
    `token_keys`, says whether two models speak of the same tokens."""
    if isinstance(vocabulary, Tokenizer):  # several times faster than one by one
        pieces: Iterable[bytes] = vocabulary.all_token_bytes()
    else:
        pieces = map(vocabulary.token_bytes, range(vocabulary.n_vocab))
    return [piece for piece, _ in token_keys(pieces, vocabulary.control_tokens)]


def first_difference(ours: Sequence[bytes], theirs: Sequence[bytes]) -> int | None:
    """The lowest id whose `spellings` differ, or that one of them lacks; None for the same vocabulary."""
    both = zip(ours, theirs, strict=False)
    differing = next((i for i, (x, y) in enumerate(both) if x != y), None)
    if differing is not None or len(ours) == len(theirs):
        return differing
    return min(len(ours), len(theirs))
