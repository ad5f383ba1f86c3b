"""Model cards: what `models/*.toml` may say, read once and checked strictly. Fetches nothing."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from edgeinfer.errors import FormatError

__all__ = ["Card", "HFSource", "PipSource", "Source", "Template", "card_files", "cards", "parse_card", "read_card"]

TemplateFormat = Literal["none", "chatml", "gemma", "llama3", "other"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.gguf")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._{}-]*==[A-Za-z0-9.]+")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_PLACEHOLDER = re.compile(r"\{(n|i)(?::0(\d))?\}")
_MAX_PARTS = 1000


@dataclass(frozen=True, slots=True)
class PipSource:
    """A file inside Python packages, in one piece or cut into ``parts``. ``requirement`` and ``member`` (the path
    inside the wheel) may hold ``{n}``, the part's number from 1, and ``{i}``, from 0; ``{n:02}`` pads to two digits."""

    requirement: str
    member: str
    parts: int
    kind: Literal["pip"] = "pip"

    def part(self, index: int) -> tuple[str, str]:
        """(requirement, member) of one part, counted from 0."""

        def fill(match: re.Match[str]) -> str:
            number = index if match[1] == "i" else index + 1
            return str(number).zfill(int(match[2] or 0))

        return _PLACEHOLDER.sub(fill, self.requirement), _PLACEHOLDER.sub(fill, self.member)


@dataclass(frozen=True, slots=True)
class HFSource:
    """A file of a Hugging Face repository; its hash must be the card's like any other's."""

    repo: str
    file: str
    kind: Literal["hf"] = "hf"


Source = PipSource | HFSource


@dataclass(frozen=True, slots=True)
class Template:
    """What is known of a model's chat template. ``format`` is ``none`` for a base model, which has no template."""

    format: TemplateFormat
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One model of the catalogue. ``bytes`` and ``sha256`` are of the whole file; ``memory_bytes`` is what it takes
    at a context of 4096 tokens; ``draft`` names the model recommended to draft for it. ``source`` in order of
    preference."""

    name: str
    description: str
    file: str
    sha256: str
    bytes: int
    licence: str
    architecture: str
    parameters: int
    context: int
    quant: str
    memory_bytes: int
    template: Template
    source: tuple[Source, ...]
    draft: str | None = None


T = TypeVar("T")
_toml_loads = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads


class _Wrong(Exception):
    """What is wrong with a card; the file's name is added further up."""


def _record(kind: type[T], table: object, where: str) -> T:
    """Build a dataclass from a TOML table: every key known, every type right, nothing missing."""
    if not isinstance(table, dict):
        raise _Wrong(f"{where} must be a table")
    hints: Mapping[str, Any] = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key, value in table.items():
        if key not in known:
            raise _Wrong(f"{where} has the unknown key {key!r} (known: {', '.join(known)})")
        allowed = get_args(hints[key])
        if allowed and all(isinstance(choice, str) for choice in allowed) and value not in allowed:
            raise _Wrong(f"{where}: {key} is {value!r}, but must be one of {', '.join(allowed)}")
        if hints[key] in (str, int) and type(value) is not hints[key]:
            raise _Wrong(f"{where}: {key} must be {'text' if hints[key] is str else 'a whole number'}")
    for name, field in known.items():
        if name not in table and field.default is MISSING:
            raise _Wrong(f"{where} lacks the key {name!r}")
    return kind(**table)


def _source(table: object) -> Source:
    kinds: dict[str, type[PipSource] | type[HFSource]] = {"pip": PipSource, "hf": HFSource}
    kind = table.get("kind") if isinstance(table, dict) else None
    if kind not in kinds:
        raise _Wrong(f"[[source]] is of kind {kind!r}, but must be one of {', '.join(kinds)}")
    source = _record(kinds[kind], table, f"[[source]] of kind {kind}")
    if isinstance(source, HFSource):
        _need(_REPO.fullmatch(source.repo), "repo", source.repo)
        _need(_relative(source.file) and source.file.endswith(".gguf"), "file", source.file)
        return source
    _need(1 <= source.parts <= _MAX_PARTS, "parts", source.parts)
    requirement, member = source.part(0)
    _need(_REQUIREMENT.fullmatch(requirement) and "{" not in requirement, "requirement", source.requirement)
    _need(_relative(member) and "{" not in member, "member", source.member)
    _need(source.parts == 1 or source.part(0) != source.part(1), "parts", source.parts)
    return source


def _relative(path: str) -> bool:
    return bool(path) and "\\" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def _need(good: object, key: str, value: object) -> None:
    if not good:
        raise _Wrong(f"{key} {value!r} cannot be right")


def parse_card(text: str, where: str) -> Card:
    """A card from TOML. Raises `FormatError` that names ``where`` and the key."""
    try:
        table: dict[str, Any] = _toml_loads(text)
        template = _record(Template, table.get("template", {}), "[template]")
        sources = table.get("source", [])
        if not isinstance(sources, list) or not sources:
            raise _Wrong("there is no [[source]]")
        card = _record(Card, {**table, "template": template, "source": tuple(map(_source, sources))}, "the card")
        _need(_NAME.fullmatch(card.name), "name", card.name)
        _need(_FILE.fullmatch(card.file), "file", card.file)
        _need(re.fullmatch(r"[0-9a-f]{64}", card.sha256), "sha256", card.sha256)
        for key in ("bytes", "parameters", "context", "memory_bytes"):
            _need(getattr(card, key) > 0, key, getattr(card, key))
        _need(card.draft is None or (isinstance(card.draft, str) and card.draft != card.name), "draft", card.draft)
        return card
    except (_Wrong, ValueError, RecursionError) as error:
        raise FormatError(f"model card {where}: {error or 'nested too deep'}") from error


def read_card(path: Path) -> Card:
    """The card in a file, which must be named after the model."""
    try:
        card = parse_card(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"model card {path} cannot be read: {error}") from error
    if path.stem != card.name:
        raise FormatError(
            f"model card {path.name} is of a model called {card.name!r}; file and model must share the name"
        )
    return card


def _folder() -> Path:
    """Inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def card_files() -> list[Path]:
    """The files of the catalogue."""
    return sorted(_folder().glob("*.toml"))


@functools.cache
def cards() -> Mapping[str, Card]:
    """The catalogue by name, smallest model first. Raises `FormatError` for a bad card or a draft that is not
    listed."""
    found = sorted((read_card(path) for path in card_files()), key=lambda card: card.bytes)
    if not found:
        raise FormatError(f"no model cards in {_folder()}: the installation is incomplete; install edgeinfer again")
    catalogue = {card.name: card for card in found}
    for card in found:
        if card.draft is not None and card.draft not in catalogue:
            raise FormatError(f"model card {card.name}: its draft {card.draft!r} is not in the catalogue")
    return MappingProxyType(catalogue)
