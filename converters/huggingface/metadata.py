"""What a GGUF file of a checkpoint says of itself: sizes, vocabulary, chat template, licence, where it came from."""

from __future__ import annotations

from collections.abc import Mapping

from edgeinfer import __version__
from edgeinfer.catalog.store import Progress, file_sha256
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Value
from edgeinfer.converters.huggingface.template import template_keys
from edgeinfer.converters.huggingface.tokenizers import read_vocabulary

__all__ = ["KEYS", "metadata", "source_hashes"]

KEYS = "edgeinfer.source."
"""Prefix of what a file says of what it was made from."""


def metadata(
    checkpoint: Checkpoint, described: Description, source: str | None, general: Mapping[str, Value]
) -> dict[str, Value]:
    """All metadata but the hashes of the source. ``source``: what to call the checkpoint, such as hf:owner/repo;
    ``general``: more about the file. Raises `FormatError` and `UnsupportedModel` for its tokenizer."""
    vocabulary = read_vocabulary(checkpoint)
    architecture = described.architecture
    where = str(checkpoint.folder)
    keys: dict[str, Value] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": _name(checkpoint, source),
        **general,
    }
    keys |= _licence(checkpoint)
    keys |= {f"{architecture}.{key}": value for key, value in described.keys.items()}
    if vocabulary.model == "bert" or architecture in ("bert", "nomic-bert"):
        keys["tokenizer.ggml.token_type_count"] = checkpoint.config.integer("type_vocab_size", 2)
    keys |= vocabulary.metadata(described.n_vocab, where)
    keys |= template_keys(checkpoint)
    keys["edgeinfer.converter.version"] = __version__
    keys[KEYS + "name"] = source or checkpoint.folder.resolve().name
    keys[KEYS + "class"] = checkpoint.model_class
    return keys


def source_hashes(checkpoint: Checkpoint, progress: Progress) -> dict[str, Value]:
    """The checkpoint's weights, by name and SHA-256. Reads all of them."""
    progress.note(f"hashing {len(checkpoint.files)} file{'s' if len(checkpoint.files) > 1 else ''}")
    return {
        KEYS + "files": [path.name for path in checkpoint.files],
        KEYS + "sha256": [file_sha256(path) for path in checkpoint.files],
    }


def _name(checkpoint: Checkpoint, source: str | None) -> str:
    stated = checkpoint.config.raw("_name_or_path")
    known = source.removeprefix("hf:") if source else ""
    name = known or (stated if isinstance(stated, str) and not stated.startswith((".", "/")) else "")
    return name.rpartition("/")[2] or checkpoint.folder.resolve().name


def _licence(checkpoint: Checkpoint) -> dict[str, Value]:
    """From the head of the model card."""
    card = checkpoint.text("README.md") or ""
    if not card.startswith("---"):
        return {}
    for line in card.split("\n---", 1)[0].splitlines():
        if line.startswith("license:") and line.partition(":")[2].strip():
            return {"general.license": line.partition(":")[2].strip().strip("\"'")}
    return {}
