from __future__ import annotations

import random

import numpy as np

from edgeinfer.kv.index import Index, Known


def packed(*tokens: int) -> bytes:
    return np.array(tokens, "<i4").tobytes()


def index_of(*entries: bytes) -> Index:
    index = Index()
    for tokens in entries:
        index.add(Known(tokens.hex(), tokens, 10 * len(tokens)))
    return index


def n_common(a: bytes, b: bytes) -> int:
    n = 0
    while 4 * n < min(len(a), len(b)) and a[4 * n : 4 * n + 4] == b[4 * n : 4 * n + 4]:
        n += 1
    return n


def test_same_answers_as_looking_at_every_entry() -> None:
    """Few different tokens, some of which differ in the last of their four bytes only: beginnings are often shared."""
    chance = random.Random(5)
    alphabet = (0, 1, 256, 1 << 24, -1)

    def some() -> bytes:
        return packed(*(chance.choice(alphabet) for _ in range(chance.randint(1, 7))))

    for _ in range(300):
        entries = {some() for _ in range(chance.randint(0, 30))}
        gone = set(chance.sample(sorted(entries), len(entries) // 3))
        index = index_of(*entries)
        for tokens in gone:
            index.discard(tokens.hex())
        left = entries - gone
        assert set(index.names) == {tokens.hex() for tokens in left}
        for _ in range(10):
            asked = some()
            most = max((n_common(tokens, asked) for tokens in left), default=0)
            best = index.longest(asked)
            assert (best[1] if best else 0) == most
            if best:
                equals = [tokens for tokens in left if n_common(tokens, asked) == most]
                assert best[0].tokens in equals
                assert len(best[0].tokens) == min(map(len, equals)), "the quickest read of equals"
            whole = sorted((tokens for tokens in left if asked.startswith(tokens)), key=len)
            longest = index.longest_whole(asked)
            assert (longest[0].tokens if longest else None) == (whole[-1] if whole else None)
            assert longest is None or longest[1] == len(whole[-1]) // 4
            assert {known.tokens for known in index.whole(asked)} == set(whole) - {asked}
            longer = {tokens for tokens in left if tokens.startswith(asked)}
            extension = index.extension(asked)
            assert (extension is not None) == bool(longer)
            assert extension is None or extension.tokens in longer
            assert extension is None or asked not in longer or extension.tokens == asked


def test_an_entry_added_or_discarded_twice() -> None:
    index = index_of(packed(1, 2))
    index.add(Known(packed(1, 2).hex(), packed(1, 2), 80))
    index.discard(packed(1, 2).hex())
    index.discard(packed(1, 2).hex())
    assert not index.names
    assert index.longest(packed(1, 2)) is None
