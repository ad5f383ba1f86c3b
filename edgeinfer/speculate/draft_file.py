"""A draft model as made by `edgeinfer.speculate.build`: what its file says of itself, and how it becomes an engine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeinfer import gguf
from edgeinfer.engines.base import EngineConfig
from edgeinfer.errors import FormatError
from edgeinfer.gguf import GGUFFile
from edgeinfer.speculate.build import BUILD_VERSION, KEYS

if TYPE_CHECKING:
    from edgeinfer.engines.llamacpp import LlamaCppEngine

__all__ = ["DraftFile", "fingerprint", "open_draft", "read_draft"]

_N_SAMPLES, _SAMPLE_BYTES = 32, 1 << 16


@dataclass(frozen=True, slots=True)
class DraftFile:
    """A draft's file. ``token_ids``: which token of the source each row of its head stands for, int32, ascending.
    ``source`` is where the source lay when the draft was made; ``fingerprint`` is what it was."""

    path: Path
    source: Path
    fingerprint: str
    token_ids: npt.NDArray[np.int32]


def fingerprint(file: GGUFFile) -> str:
    """Tells models apart by their sizes and by samples of their bytes, the first and the last among them: reading all
    of a model would take longer than loading it. A draft of other weights than it claims would guess badly, and no
    answer would change."""
    digest = hashlib.sha256()
    for path in gguf.part_paths(file):
        n_bytes = path.stat().st_size
        digest.update(n_bytes.to_bytes(8, "little"))
        with path.open("rb") as stream:
            for i in range(_N_SAMPLES):
                stream.seek(max(0, n_bytes - _SAMPLE_BYTES) * i // (_N_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def read_draft(path: Path) -> DraftFile:
    """Raises `FormatError` for a file that is none of ours, of another version, or damaged; `ModelNotFound`."""
    file = gguf.read(path)
    meta = file.metadata
    version = meta.integer(KEYS + "version", 0)
    if version != BUILD_VERSION:
        what = f"a draft of version {version}" if version else "no draft made by edgeinfer"
        raise FormatError(f"{path} is {what}; this edgeinfer makes and reads version {BUILD_VERSION}")
    token_ids = np.ascontiguousarray(meta.numbers(KEYS + "token_ids"), np.int32)
    if token_ids.size != gguf.dimensions(file).n_vocab or (np.diff(token_ids, prepend=-1) < 1).any():
        raise FormatError(f"{path}: its {token_ids.size} token ids are not those of its head")
    return DraftFile(path, Path(meta.text(KEYS + "source")), meta.text(KEYS + "fingerprint"), token_ids)


def open_draft(path: Path, source: Path, config: EngineConfig) -> tuple[LlamaCppEngine, npt.NDArray[np.int32]]:
    """The engine of a draft, and which token of the source each column of its logits stands for.

    The engine reads every token of the source, from whose file it takes them as they come: the file stays open. Raises
    `FormatError` where ``source`` is not what the draft was made of or lacks tokens of its head, what `read_draft`
    raises, and what the engine does.
    """
    from edgeinfer.engines.llamacpp import LlamaCppEngine
    from edgeinfer.engines.token_table import TokenTable

    draft, file = read_draft(path), gguf.read(source)
    table = TokenTable(file)
    if draft.fingerprint != fingerprint(file) or draft.token_ids[-1] >= table.n_vocab:
        raise FormatError(f"{path} is a draft of {draft.source}, and {source} is another model")
    return LlamaCppEngine(path, config, table=table), draft.token_ids
