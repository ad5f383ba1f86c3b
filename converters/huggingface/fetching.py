"""A checkpoint from Hugging Face, into its own library's cache: safetensors and what describes them, nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from edgeinfer.catalog import hf_source
from edgeinfer.catalog.store import Progress
from edgeinfer.errors import ModelNotFound, UsageError

__all__ = ["fetch_checkpoint", "wanted_files"]

_REFERENCE = re.compile(r"hf:[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SMALL = re.compile(
    r"(?:[\w.-]+\.json|tokenizer\.model|spiece\.model|sentencepiece\.bpe\.model|vocab\.txt|merges\.txt|README\.md|"
    r"chat_template\.jinja|1_Pooling/config\.json)",
    re.ASCII,
)
_WEIGHTS = re.compile(r"model(?:-\d+-of-\d+)?\.safetensors", re.ASCII)


def wanted_files(names: list[str]) -> list[str]:
    """Of a repository's files those that a conversion reads, weights last. Raises `ModelNotFound` for one without
    safetensors."""
    weights = sorted(name for name in names if _WEIGHTS.fullmatch(name))
    if not weights:
        raise ModelNotFound("holds no safetensors (model.safetensors, or parts of it with an index)")
    return [*sorted(name for name in names if _SMALL.fullmatch(name)), *weights]


def fetch_checkpoint(reference: str, progress: Progress) -> Path:
    """Bring ``hf:owner/repo`` here; its folder. Raises `UsageError` for another form, `ModelNotFound`, `DownloadError`,
    `BackendUnavailable` without the library."""
    if not _REFERENCE.fullmatch(reference) or ".." in reference:
        raise UsageError(f"{reference!r} is no checkpoint of Hugging Face's: write hf:owner/repo")
    return hf_source.fetch_files(reference.removeprefix("hf:"), wanted_files, progress)
