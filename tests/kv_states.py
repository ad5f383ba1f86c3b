"""States that can be told from each other, for the tests of the store and for the processes they start."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinfer.kv.fingerprint import Fingerprint
from edgeinfer.kv.store import Store

TokenIds = npt.NDArray[np.int32]

MODEL = Fingerprint(weights="abc", engine="llamacpp", library="1.0", kernels="1 avx2", kv_type="f16", label="tiny")
TALK = np.arange(200, dtype=np.int32)
OTHER = Fingerprint(weights="abc", engine="llamacpp", library="1.0", kernels="1 avx2", kv_type="q8_0")


def ids(*values: int) -> TokenIds:
    return np.array(values, np.int32)


def state_of(fingerprint: Fingerprint, tokens: TokenIds, n_bytes: int = 1000) -> bytes:
    """The only right state of these tokens."""
    seed = hashlib.sha256(fingerprint.digest() + tokens.tobytes()).digest()
    return (seed * (n_bytes // 32 + 1))[:n_bytes]


def save(store: Store, fingerprint: Fingerprint, tokens: TokenIds, n_bytes: int = 1000) -> bool:
    return store.save(fingerprint, tokens, memoryview(state_of(fingerprint, tokens, n_bytes)))


def temporaries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*.tmp"))


def quiet_store(folder: Path, said: Callable[[str], None], cap_bytes: int = 1 << 30) -> Store:
    return Store(folder, said=said, cap_bytes=cap_bytes, keep_free_bytes=0, patience_s=120)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.kv"))


def loaded(store: Store, tokens: TokenIds) -> bytes | None:
    found = store.find(MODEL, tokens)
    state = store.load(found) if found else None
    return None if state is None else bytes(state)


def use(folder: Path, name: str, when: float) -> None:
    os.utime(folder / name, (when, when))
