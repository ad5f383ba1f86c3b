"""What a saved KV state depends on besides its tokens. Two states are interchangeable where every one of these facts is
the same, and nowhere else. Knows only their names: who opens the engine knows their values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields

__all__ = ["Fingerprint"]

Setting = tuple[str, str | int | float | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """``weights``: a hash of all of the model's bytes. ``library``: the engine's library, its version and build.
    ``kernels``: version and instruction set of the kernels that compute (empty: the library's own), since another
    instruction set rounds otherwise. ``settings``: whatever else changes bits or layout (context, batch, attention),
    by name. ``lora``: hash and scale of each adapter, in the order applied. ``label`` is for people (`cache ls`) and
    makes no difference."""

    weights: str
    engine: str
    library: str
    kernels: str
    kv_type: str
    rope: tuple[Setting, ...] = ()
    settings: tuple[Setting, ...] = ()
    lora: tuple[tuple[str, float], ...] = ()
    label: str = field(default="", compare=False)

    def digest(self) -> bytes:
        """32 bytes that are the same for equal fingerprints only. Each value goes in with its type and length, so that
        none can run over into the next."""
        total = hashlib.sha256(b"edgeinfer kv fingerprint 1")
        for item in fields(self):
            if item.compare:
                for part in (item.name, *_parts(getattr(self, item.name))):
                    data = part.encode("utf-8", "surrogatepass")
                    total.update(len(data).to_bytes(8, "little") + data)
        return total.digest()


def _parts(value: object) -> list[str]:
    if not isinstance(value, tuple):
        return [type(value).__name__, repr(value)]
    inner = [part for item in value for part in _parts(item)]
    return ["tuple", str(len(value)), *inner]
