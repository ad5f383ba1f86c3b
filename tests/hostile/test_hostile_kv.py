"""10,000 damaged, cut, spliced and foreign files in the folder of saved states: a miss, said once, removed; never a
crash and never a state that is not the saved one."""

from __future__ import annotations

import hashlib
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kv_states import MODEL, OTHER, ids, quiet_store, save, state_of

from edgeinfer.errors import FormatError
from edgeinfer.kv import entry
from edgeinfer.kv.fingerprint import Fingerprint

N_FILES = 10_000
HEAD, SEAL = 256, 224
TALK = np.arange(90, dtype=np.int32)
CASES = ((MODEL, TALK), (MODEL, TALK[:70] + np.int32(1)), (OTHER, TALK), (MODEL, ids(5)))

Mutation = Callable[[random.Random, list[bytes]], bytes]


def flip(chance: random.Random, whole: list[bytes]) -> bytes:
    data = bytearray(whole[0])
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def overwrite(chance: random.Random, whole: list[bytes]) -> bytes:
    data = bytearray(whole[0])
    start, length = chance.randrange(len(data)), chance.choice((1, 4, 64, 600))
    data[start : start + length] = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return bytes(data)


def cut(chance: random.Random, whole: list[bytes]) -> bytes:
    return whole[0][: chance.choice((0, 7, HEAD - 1, HEAD, HEAD + 4, chance.randrange(len(whole[0]))))]


def extend(chance: random.Random, whole: list[bytes]) -> bytes:
    return whole[0] + chance.choice((b"\0", chance.randbytes(100), whole[0]))


def splice(chance: random.Random, whole: list[bytes]) -> bytes:
    """A piece of another entry at the same place; its head before this state; its state behind this head."""
    data, other = whole[0], chance.choice(whole[1:])
    start, end = sorted(chance.sample([0, 16, 32, 64, 96, SEAL, HEAD, HEAD + 40, 700, 1200, 10_000], 2))
    return data[:start] + other[start:end] + data[end:]


def another(chance: random.Random, whole: list[bytes]) -> bytes:
    return chance.choice(whole[1:])


def foreign(chance: random.Random, whole: list[bytes]) -> bytes:
    length = chance.choice((0, 1, 255, 256, 257, 5000))
    return chance.choice((b"", b"GGUF\3\0\0\0", b"{", whole[0][:8], whole[0][:16])) + chance.randbytes(length)


def lie(chance: random.Random, whole: list[bytes]) -> bytes:
    """Another value in a field, and often a checksum that agrees with it."""
    data = bytearray(whole[0])
    offset, form = chance.choice(((8, "<I"), (12, "<I"), (16, "<Q"), (24, "<Q")))
    top = (1 << 8 * struct.calcsize(form)) - 1
    (value,) = struct.unpack_from(form, data, offset)
    lies = (0, 1, value + 1, value - 1, 2 * value, len(data), 1 << 24, 1 << 31, top, (top >> 2) + 1)
    struct.pack_into(form, data, offset, chance.choice(lies) & top)
    if chance.random() < 0.3:
        at = chance.choice((32, 64, 96, HEAD))  # fingerprint, checksum of the state, label, tokens
        data[at] ^= 1
    return resealed(bytes(data)) if chance.random() < 0.7 else bytes(data)


def resealed(data: bytes) -> bytes:
    n_tokens = struct.unpack_from("<I", data, 12)[0]
    tokens = data[HEAD : HEAD + 4 * n_tokens]
    return data[:SEAL] + hashlib.sha256(data[:SEAL] + tokens).digest() + data[HEAD:]


MUTATIONS: tuple[Mutation, ...] = (flip, overwrite, cut, extend, splice, another, foreign, lie)


@pytest.fixture
def originals(tmp_path: Path) -> dict[str, bytes]:
    """Whole entries by their names, in the order of `CASES`."""
    store = quiet_store(tmp_path / "whole", pytest.fail)
    for fingerprint, tokens in CASES:
        save(store, fingerprint, tokens)
    found = [store.find(fingerprint, tokens) for fingerprint, tokens in CASES]
    return {item.name: (tmp_path / "whole" / item.name).read_bytes() for item in found if item}


def outcome(folder: Path, fingerprint: Fingerprint, tokens: np.ndarray[tuple[int], np.dtype[np.int32]]) -> str:
    """``kept``, or the line that was said; fails for anything else."""
    said: list[str] = []
    store = quiet_store(folder, said.append)
    found = store.find(fingerprint, tokens)
    state = store.load(found) if found else None
    left = list(folder.glob("*.kv"))
    if state is not None:
        assert found is not None
        assert found.n_tokens == found.n_common == len(tokens)
        assert bytes(state) == state_of(fingerprint, tokens), "wrong reuse"
        assert said == []
        assert len(left) == 1
        return "kept"
    assert store.find(fingerprint, tokens) is None
    assert len(said) == 1
    assert "\n" not in said[0]
    assert left == []
    return said[0]


def test_ten_thousand_bad_files(tmp_path: Path, originals: dict[str, bytes]) -> None:
    seed = 20
    folder = tmp_path / "kv"
    folder.mkdir(mode=0o700)
    reasons: dict[str, int] = {}
    names = list(originals)
    for number in range(N_FILES):
        chance = random.Random(seed * N_FILES + number)
        at = chance.randrange(len(CASES))
        name, (fingerprint, tokens) = names[at], CASES[at]
        whole = [originals[name], *(data for other, data in originals.items() if other != name)]
        mutation = MUTATIONS[number % len(MUTATIONS)]
        data = mutation(chance, whole)
        (folder / name).write_bytes(data)
        try:
            said = outcome(folder, fingerprint, tokens)
        except Exception as error:
            raise AssertionError(f"file {number} of seed {seed}, {mutation.__name__}: {error}") from error
        # A date or label with a checksum that agrees is the one change that cannot be told, and harms nobody.
        assert said != "kept" or mutation is lie or data == whole[0], f"file {number}: not noticed"
        assert said == "kept" or name in said
        reasons[said.partition(": ")[2].partition(": ")[2]] = reasons.get(said, 0) + 1
        (folder / name).unlink(missing_ok=True)
    assert any("checksum of its head" in reason for reason in reasons)
    assert any("checksum of the state" in reason for reason in reasons)
    assert any("another state than its name" in reason for reason in reasons)
    save(quiet_store(folder, pytest.fail), MODEL, TALK)
    assert outcome(folder, MODEL, TALK) == "kept", "a sound file after all those"


def test_a_lie_about_sizes_allocates_nothing(tmp_path: Path, originals: dict[str, bytes]) -> None:
    name, data = next(iter(originals.items()))
    path = tmp_path / name
    tracemalloc.start()
    try:
        for n_tokens, state_bytes in [(90, 1 << 62), (2**32 - 1, 1000), (1 << 24, 1), (0, 1360), (340, 0)]:
            lied = bytearray(data)
            struct.pack_into("<IQ", lied, 12, n_tokens, state_bytes)
            path.write_bytes(resealed(bytes(lied)))
            with entry.open_entry(path) as stream, pytest.raises(FormatError):
                entry.read_head(stream, name)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, originals: dict[str, bytes]) -> None:
    name, data = next(iter(originals.items()))
    path = tmp_path / name
    path.write_bytes(data)
    with entry.open_entry(path) as stream:
        head = entry.read_head(stream, name)
        path.write_bytes(data[:-1])
        with pytest.raises(FormatError, match="ends too early"):
            entry.read_state(stream, head)
