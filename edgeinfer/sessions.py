"""Conversations on disk: one private JSON file each, written whole, and read as if somebody else had written it.

Owns the format and the folder. Knows nothing of models (names and sizes are recorded, not opened) nor of KV caches.

    {"format": "edgeinfer-session", "version": 1, "created": "…", "model": {"name", "bytes"},
     "settings": {fields of SamplingParams that differ from the defaults, and on_overflow},
     "messages": [{"role", "content", "finish", "ids": "12 34 …"}]}
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, cast

from edgeinfer import env, files
from edgeinfer.core import FinishReason, Grammar, GrammarKind, Message, SamplingParams
from edgeinfer.errors import FormatError, UsageError

__all__ = [
    "Entry",
    "Listing",
    "Session",
    "Turn",
    "exists",
    "fresh_name",
    "listing",
    "load",
    "newest",
    "path",
    "remove",
    "save",
    "stamps",
    "sweep",
]

MAX_BYTES = 64 << 20
_MAX_BRACKETS = 2_000_000  # what the parser makes of an empty list is 20 times as large as its text
_MAX_MESSAGES = 100_000
_FORMAT, _VERSION = "edgeinfer-session", 1
_ROLES = ("system", "user", "assistant", "tool")
_FINISHES = (None, "stop", "length", "cancelled", "deadline")
_STALE_S = 600


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. ``finish`` of an answer says why it ended (``cancelled``: somebody stopped it). ``token_ids`` are
    what the model chose: the text could be spelt otherwise, and then its saved KV would be of no use."""

    role: str
    content: str
    finish: FinishReason | None = None
    token_ids: tuple[int, ...] = ()

    @property
    def message(self) -> Message:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation with what is needed to go on with it. ``settings`` are options of a request, by their names."""

    name: str
    model: str
    turns: tuple[Turn, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    model_bytes: int | None = None
    created: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the list of sessions. ``updated`` in seconds since 1970. ``problem``: why it cannot be read, if so."""

    name: str
    updated: float
    session: Session | None = None
    problem: str | None = None

    @property
    def title(self) -> str:
        """The beginning of the first question on one line, or the name."""
        turns = self.session.turns if self.session else ()
        first = next((turn.content for turn in turns if turn.role == "user"), "")
        return " ".join(first[:400].split())[:80] or self.name


def folder() -> Path:
    return env.data_dir() / "sessions"


def path(name: str) -> Path:
    """The file of a session. Raises `UsageError` for a name that is no plain file name."""
    return folder() / f"{files.safe_name(name, 'session name')}.json"


def exists(name: str) -> bool:
    return path(name).is_file()


_given: set[str] = set()
_giving = threading.Lock()


def fresh_name() -> str:
    """A name by date and time that no session has yet, and that nobody here was given who has not saved so far."""
    base = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    name, n = base, 1
    with _giving:
        while name in _given or path(name).exists():
            n += 1
            name = f"{base}-{n}"
        _given.add(name)
    return name


def newest() -> str | None:
    """The session that was written to last."""
    entries = stamps()
    return max(entries, key=lambda entry: entry[1])[0] if entries else None


def listing() -> list[Entry]:
    """All sessions, the newest first; one that cannot be read says why."""
    entries = []
    for name, updated in sorted(stamps(), key=lambda entry: -entry[1]):
        try:
            entries.append(Entry(name, updated, load(name)))
        except (FormatError, UsageError) as error:
            entries.append(Entry(name, updated, problem=str(error)))
    return entries


class Listing:
    """The newest sessions for a screen that shows them again and again: a file is read once for each time it was
    written, and of a long conversation only its beginning stays. For one thread at a time."""

    def __init__(self, n_most: int = 300) -> None:
        self._n_most = n_most
        self._known: dict[tuple[str, float], Entry] = {}

    def newest(self) -> list[Entry]:
        stamped = sorted(stamps(), key=lambda stamp: -stamp[1])[: self._n_most]
        self._known = {stamp: self._known.get(stamp) or self._read(*stamp) for stamp in stamped}
        return list(self._known.values())

    @staticmethod
    def _read(name: str, updated: float) -> Entry:
        try:
            session = load(name)
        except (FormatError, UsageError) as error:
            return Entry(name, updated, problem=str(error))
        first = next((turn.content[:400] for turn in session.turns if turn.role == "user"), "")
        return Entry(name, updated, replace(session, turns=(Turn("user", first),)))


def stamps() -> list[tuple[str, float]]:
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder()) as entries:
        for entry in entries:
            name, suffix = os.path.splitext(entry.name)
            with contextlib.suppress(UsageError, OSError):
                if suffix == ".json" and files.safe_name(name, "session name"):
                    found.append((name, entry.stat().st_mtime))
    return found


def save(session: Session) -> None:
    """Write the session to its file, whole, readable by its owner only. Raises `OSError` and leaves the old file."""
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "created": session.created or datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": {"name": session.model, "bytes": session.model_bytes},
        "settings": _settings_out(session.settings),
        "messages": [_turn_out(turn) for turn in session.turns],
    }
    files.private_dir(env.data_dir())
    files.private_dir(folder())
    # A lone half of a surrogate pair has no UTF-8: it can come from a pasted line, and must not cost the conversation.
    text = json.dumps(document, ensure_ascii=False, indent=1)
    files.atomic_write(path(session.name), text.encode("utf-8", "replace"))


def remove(name: str) -> None:
    """Delete a session. Raises `UsageError` where there is none of this name."""
    try:
        path(name).unlink()
    except FileNotFoundError:
        raise UsageError(f"there is no session {name!r}") from None


def sweep() -> None:
    """Remove what a killed save left behind."""
    with contextlib.suppress(OSError):
        for leftover in folder().glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if leftover.stat().st_mtime < time.time() - _STALE_S:
                    leftover.unlink()


def load(name: str) -> Session:
    """Read a session. The file is never changed.

    Raises `UsageError` when there is none of this name, `FormatError` for a file that is damaged, foreign, too large
    or out of bounds in any field.
    """
    file = path(name)
    data = _read(file, name)

    def bad(why: str) -> NoReturn:
        raise FormatError(f"session {name!r} cannot be read: {why} ({file}; it was left as it is)")

    if data.count(b"[") + data.count(b"{") > _MAX_BRACKETS:
        bad("too many values")
    try:
        document = json.loads(data.decode(), parse_constant=lambda word: bad(f"{word} is not JSON"))
    except RecursionError:
        bad("nested too deeply")
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and integers of absurd length
        bad(f"not JSON: {error}")
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        bad("it is not an edgeinfer session")
    if document.get("version") != _VERSION:
        bad(f"version {document.get('version')!r:.40} where this edgeinfer knows {_VERSION}")
    try:
        return _session(name, document)
    except (_Wrong, UsageError) as error:
        bad(str(error))


def _read(file: Path, name: str) -> bytes:
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise UsageError(
            f"there is no session {name!r}; edgeinfer chat --list-sessions shows which there are"
        ) from None
    except OSError as error:
        raise FormatError(f"session {name!r} cannot be read: {error.strerror} ({file})") from error
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise FormatError(f"session {name!r} cannot be read: not a regular file ({file})")
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FormatError(f"session {name!r} cannot be read: larger than {MAX_BYTES >> 20} MiB ({file})")
    return data


class _Wrong(Exception):
    """A field that is not what the format says."""


def _session(name: str, document: Mapping[str, Any]) -> Session:
    model = document.get("model")
    if not isinstance(model, dict):
        raise _Wrong("'model' is not an object")
    n_bytes, created = model.get("bytes"), document.get("created", "")
    if not (n_bytes is None or (type(n_bytes) is int and n_bytes >= 0)):
        raise _Wrong("'model.bytes' is not a size")
    messages = document.get("messages")
    if not isinstance(messages, list) or len(messages) > _MAX_MESSAGES:
        raise _Wrong("'messages' is not a list, or too long")
    return Session(
        name,
        _text(model.get("name"), "model.name", 4096),
        tuple(_turn(message, f"messages[{i}]") for i, message in enumerate(messages)),
        _settings_in(document.get("settings", {})),
        n_bytes,
        _text(created, "created", 64),
    )


def _turn_out(turn: Turn) -> dict[str, str]:
    out = {"role": turn.role, "content": turn.content}
    if turn.finish:
        out["finish"] = turn.finish
    if turn.token_ids:
        out["ids"] = " ".join(map(str, turn.token_ids))
    return out


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise _Wrong(f"{where} is not an object")
    role, finish = message.get("role"), message.get("finish")
    if role not in _ROLES:
        raise _Wrong(f"{where}.role is {role!r:.40}, not one of {', '.join(_ROLES)}")
    if finish not in _FINISHES:
        raise _Wrong(f"{where}.finish is {finish!r:.40}")
    content = _text(message.get("content"), f"{where}.content", MAX_BYTES)
    return Turn(role, content, finish, _ids(message.get("ids", ""), f"{where}.ids"))


def _ids(value: Any, where: str) -> tuple[int, ...]:
    words = _text(value, where, MAX_BYTES).split()
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise _Wrong(f"{where} are not token ids")
    return tuple(map(int, words))


def _text(value: Any, where: str, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise _Wrong(f"{where} is not a text, or too long")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Wrong(f"{where} holds half a character") from None
    return value


_DEFAULTS = SamplingParams()
_NAMES = tuple(item.name for item in dataclasses.fields(SamplingParams))
_OPTIONAL_INTS = ("max_tokens", "seed", "logprobs")


def _settings_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    out = {name: value for name, value in settings.items() if value != getattr(_DEFAULTS, name, "error")}
    if out.get("grammar"):
        out["grammar"] = dataclasses.asdict(out["grammar"])
    return out


def _settings_in(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise _Wrong("'settings' is not an object")
    chosen = {name: _setting(name, value) for name, value in settings.items() if name != "on_overflow"}
    SamplingParams(**chosen)  # its ranges
    if "on_overflow" in settings:
        if settings["on_overflow"] not in ("error", "drop-oldest", "compact"):
            raise _Wrong("settings.on_overflow is unknown")
        chosen["on_overflow"] = settings["on_overflow"]
    return chosen


def _setting(name: str, value: Any) -> Any:
    """A value of the type that `SamplingParams` declares; the type checker cannot help with what comes from a file."""
    if name not in _NAMES:
        raise _Wrong(f"settings.{name:.40} is unknown")
    default = getattr(_DEFAULTS, name)
    kind = int if name in _OPTIONAL_INTS else type(default)
    if kind is float and type(value) in (int, float) and abs(value) < 1e300:
        return float(value)
    if (kind in (int, bool) and type(value) is kind) or (value is None and default is None):
        return value
    if name == "stop" and isinstance(value, list):
        return tuple(_text(item, "settings.stop", 4096) for item in value)
    if name == "logit_bias" and isinstance(value, dict):
        return _biases(value)
    if name == "grammar" and isinstance(value, dict):
        if value.get("kind") not in ("json_schema", "regex", "lark", "gbnf"):
            raise _Wrong("settings.grammar.kind is unknown")
        return Grammar(cast("GrammarKind", value["kind"]), _text(value.get("source"), "settings.grammar", MAX_BYTES))
    raise _Wrong(f"settings.{name} is of the wrong type")


def _biases(value: Mapping[str, Any]) -> dict[int, float]:
    good = all(key.isascii() and key.isdigit() and len(key) < 10 for key in value)
    if not good or not all(type(bias) in (int, float) and abs(bias) < 1e300 for bias in value.values()):
        raise _Wrong("settings.logit_bias does not map token ids to numbers")
    return {int(key): float(bias) for key, bias in value.items()}
