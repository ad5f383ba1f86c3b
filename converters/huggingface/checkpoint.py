"""A checkpoint's folder as Hugging Face's tools write it: its configuration, its tensors in one file or several, and
its other files. Opens nothing outside the folder, and nothing but JSON, safetensors and plain text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinfer.converters.huggingface.documents import Fields, parse_object, read_object
from edgeinfer.converters.huggingface.safetensors import Stored, read_header
from edgeinfer.errors import FormatError, ModelNotFound, UnsupportedModel
from edgeinfer.gguf.header import open_regular, shown

__all__ = ["Checkpoint", "open_checkpoint"]

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_MAX_CONFIG_BYTES = 16 << 20
_MAX_INDEX_BYTES = 64 << 20
_MAX_TEXT_BYTES = 64 << 20
_FILE_NAME = re.compile(r"[\w][\w.+-]*\.safetensors", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``files``: the safetensors files in order; ``tensors`` of all of them by Hugging Face's names."""

    folder: Path
    config: Fields
    files: tuple[Path, ...]
    tensors: Mapping[str, Stored]

    @property
    def model_class(self) -> str:
        """What ``config.json`` names as the model's class, such as LlamaForCausalLM; ``""`` where it names none."""
        names = self.config.texts("architectures")
        return names[0] if names else ""

    def document(self, name: str) -> Fields | None:
        """A JSON file of the folder, None where there is none."""
        path = _inside(self.folder, name)
        return None if path is None else Fields(read_object(path), str(path))

    def array(self, name: str) -> list[Any] | None:
        """A JSON file that holds an array, None where there is none. Raises `FormatError`."""
        text = self.text(name)
        if text is None:
            return None
        where = str(self.folder / name)
        return Fields(parse_object(b'{"array": ' + text.encode() + b"}", where), where).array("array")

    def text(self, name: str) -> str | None:
        """A text file of the folder, None where there is none. Raises `FormatError` for what is not UTF-8."""
        data = self.data(name)
        try:
            return None if data is None else data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.folder / name} is not UTF-8 text at byte {error.start}") from error

    def data(self, name: str) -> bytes | None:
        """The bytes of a file of the folder, None where there is none."""
        path = _inside(self.folder, name)
        if path is None:
            return None
        size = path.stat().st_size
        if size > _MAX_TEXT_BYTES:
            raise FormatError(f"{path} is larger than the {_MAX_TEXT_BYTES >> 20} MiB that are accepted")
        with open_regular(path) as stream:
            return stream.read(size)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of a checkpoint; no weights yet.

    Raises `ModelNotFound` where there is no checkpoint, `UnsupportedModel` for one without safetensors or that is
    quantized already, `FormatError` for one that is damaged or points outside its folder.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "missing"
        raise ModelNotFound(f"{folder} is {what}; give the folder of a checkpoint, with config.json and safetensors")
    path = _inside(folder, "config.json")
    if path is None:
        raise ModelNotFound(f"{folder} has no config.json, so it is no checkpoint of Hugging Face's form")
    config = Fields(read_object(path, max_bytes=_MAX_CONFIG_BYTES), str(path))
    if "quantization_config" in config:
        method = config.fields("quantization_config").raw("quant_method")
        raise UnsupportedModel(
            f"{folder} is quantized already ({shown(str(method))}); give the checkpoint that it was made from"
        )
    files, tensors = _tensors(folder)
    return Checkpoint(folder, config, files, tensors)


def _tensors(folder: Path) -> tuple[tuple[Path, ...], dict[str, Stored]]:
    index = _inside(folder, _INDEX)
    if index is not None:
        return _indexed(folder, index)
    single = _inside(folder, _SINGLE)
    if single is None:
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        if pickles:
            raise UnsupportedModel(
                f"{folder} has its weights in {pickles[0]}, a Python pickle, which is never opened: it could run "
                "anything; save the model as safetensors first"
            )
        raise ModelNotFound(f"{folder} has neither {_SINGLE} nor {_INDEX}")
    return (single,), read_header(single)


def _indexed(folder: Path, index: Path) -> tuple[tuple[Path, ...], dict[str, Stored]]:
    """The tensors of a checkpoint in parts, which must be those that the index names, each where it says."""
    where = Fields(read_object(index, max_bytes=_MAX_INDEX_BYTES), str(index))
    weight_map = where.raw("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise where.wrong("weight_map", "must be an object of tensors and their files")
    names = sorted({_part_name(index, name) for name in weight_map.values()})
    paths = [_inside(folder, name) for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        raise ModelNotFound(f"{folder} lacks {', '.join(missing)}, which its index names; fetch the whole checkpoint")
    tensors: dict[str, Stored] = {}
    files = tuple(path for path in paths if path is not None)
    for path in files:
        for name, stored in read_header(path).items():
            if name in tensors:
                raise FormatError(f"{path}: tensor {shown(name)} is in {tensors[name].path.name} already")
            tensors[name] = stored
    for name, part in weight_map.items():
        if name not in tensors or tensors[name].path.name != part:
            raise FormatError(f"{index} says that tensor {shown(name)} is in {part}, where it is not")
    return files, tensors


def _part_name(index: Path, name: object) -> str:
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        raise FormatError(f"{index} names the file {shown(str(name))}, but may only name .safetensors files beside it")
    return name


def _inside(folder: Path, name: str) -> Path | None:
    """A file of the folder, None where there is none. Raises `FormatError` for one that leads elsewhere."""
    path = folder / name
    if not path.exists():
        if path.is_symlink():
            raise FormatError(f"{path} is a link to a file that is not there")
        return None
    if not path.resolve().is_relative_to(_root(folder)):
        raise FormatError(f"{path} leads to {path.resolve()}, outside the checkpoint; copy the file there instead")
    return path


def _root(folder: Path) -> Path:
    """What a checkpoint's links may point into: Hugging Face's cache keeps a repository's files beside its snapshots,
    under the names of their hashes."""
    real = folder.resolve()
    repository = real.parent.parent
    if real.parent.name == "snapshots" and repository.name.startswith("models--"):
        return repository
    return real
