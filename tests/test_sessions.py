from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from edgeinfer import sessions
from edgeinfer.core import Grammar
from edgeinfer.errors import EdgeInferError, FormatError, UsageError
from edgeinfer.sessions import Session, Turn

TALK = (
    Turn("system", "Be brief."),
    Turn("user", "Grüße, 你好 \x1b[31m"),
    Turn("assistant", "Hi", "cancelled", (5, 0, 123456)),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEINFER_HOME", str(tmp_path))
    return tmp_path


def write(name: str, document: Any) -> Path:
    file = sessions.path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return file


def good() -> dict[str, Any]:
    sessions.save(Session("good", "m", TALK))
    document: dict[str, Any] = json.loads(sessions.path("good").read_text("utf-8"))
    return document


def test_a_session_comes_back_as_it_was() -> None:
    settings = {
        "temperature": 0.0,
        "stop": ("\n\n", "End"),
        "seed": 2**64 - 1,
        "logit_bias": {12: -3.5},
        "grammar": Grammar("regex", "[a-z]+"),
        "on_overflow": "compact",
        "max_tokens": None,
        "top_k": 40,
    }
    sessions.save(Session("work", "qwen", TALK, settings, 123))
    back = sessions.load("work")
    assert back.turns == TALK
    assert (back.model, back.model_bytes) == ("qwen", 123)
    assert back.settings == {k: v for k, v in settings.items() if k not in ("max_tokens", "top_k")}  # the defaults
    assert back.created


@pytest.mark.skipif(os.name != "posix", reason="modes")
@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_the_owner_can_read(umask: int, home: Path) -> None:
    before = os.umask(umask)
    try:
        sessions.save(Session("private", "m", TALK))
    finally:
        os.umask(before)
    assert stat.S_IMODE(sessions.path("private").stat().st_mode) == 0o600
    for folder in (sessions.path("private").parent, home / "data"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "a\0b", "con."])
def test_names_lead_nowhere_else(name: str) -> None:
    with pytest.raises(UsageError):
        sessions.path(name)


def test_newest_and_listing_survive_a_damaged_neighbour() -> None:
    sessions.save(Session("old", "m", TALK))
    os.utime(sessions.path("old"), (1, 1))
    os.utime(write("broken", b"{"), (2, 2))
    sessions.save(Session("new", "m", TALK))
    (sessions.folder() / ".x.json.abc.tmp").write_text("")
    assert sessions.newest() == "new"
    entries = sessions.listing()
    assert [entry.name for entry in entries] == ["new", "broken", "old"]
    assert entries[1].session is None
    assert "not JSON" in str(entries[1].problem)


def test_nothing_there() -> None:
    assert sessions.newest() is None
    assert sessions.listing() == []
    with pytest.raises(UsageError, match="no session 'x'"):
        sessions.load("x")


def test_a_fresh_name_is_free() -> None:
    first = sessions.fresh_name()
    sessions.save(Session(first, "m"))
    assert sessions.fresh_name() != first


def test_leftovers_of_a_killed_save_are_swept() -> None:
    sessions.save(Session("a", "m"))
    old, young = (sessions.folder() / f".a.json.{i}.tmp" for i in range(2))
    old.touch()
    os.utime(old, (1, 1))
    young.touch()
    sessions.sweep()
    assert not old.exists()
    assert young.exists()


def test_half_a_character_does_not_cost_the_conversation() -> None:
    sessions.save(Session("half", "m", (Turn("user", "a\ud800b"),)))
    assert sessions.load("half").turns[0].content == "a?b"


HOSTILE: dict[str, bytes | dict[str, Any] | list[Any]] = {
    "empty": b"",
    "binary": b"GGUF\x03\0\0\0",
    "not utf-8": b'{"format": "\xff"}',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "many": b"[" + b"[]," * 2_000_001 + b"0]",
    "long number": b'{"version": ' + b"1" * 10_000 + b"}",
    "nan": b'{"format": NaN}',
    "list": [],
    "foreign": {"format": "chat", "version": 1},
    "newer": {"format": "edgeinfer-session", "version": 2},
    "true version": {"format": "edgeinfer-session", "version": [1]},
}
FIELDS: list[tuple[str, Any]] = [
    ("model", None),
    ("model", {"name": 1}),
    ("model", {"name": "m", "bytes": -1}),
    ("model", {"name": "m", "bytes": True}),
    ("created", 5),
    ("messages", None),
    ("messages", {"0": 1}),
    ("messages", [1]),
    ("messages", [{"role": "user"}]),
    ("messages", [{"role": "root", "content": ""}]),
    ("messages", [{"role": ["user"], "content": ""}]),
    ("messages", [{"role": "user", "content": None}]),
    ("messages", [{"role": "user", "content": "\ud800"}]),
    ("messages", [{"role": "user", "content": "", "finish": "boom"}]),
    ("settings", []),
    ("settings", {"temperature": "hot"}),
    ("settings", {"temperature": -1}),
    ("settings", {"temperature": 10**400}),
    ("settings", {"temperature": True}),
    ("settings", {"top_k": 1.5}),
    ("settings", {"seed": -1}),
    ("settings", {"stop": "x"}),
    ("settings", {"stop": [1]}),
    ("settings", {"logit_bias": {"x": 1}}),
    ("settings", {"logit_bias": {"1": None}}),
    ("settings", {"grammar": {"kind": "perl", "source": ""}}),
    ("settings", {"grammar": "x"}),
    ("settings", {"__class__": 1}),
    ("settings", {"on_overflow": "panic"}),
]


@pytest.mark.parametrize("case", HOSTILE, ids=str)
def test_a_hostile_file_is_refused_and_left_alone(case: str) -> None:
    file = write("bad", HOSTILE[case])
    before = file.read_bytes()
    with pytest.raises(FormatError) as refused:
        sessions.load("bad")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    assert file.read_bytes() == before


@pytest.mark.parametrize(("field", "value"), FIELDS, ids=[f"{f}-{i}" for i, (f, _) in enumerate(FIELDS)])
def test_a_field_out_of_bounds_is_refused(field: str, value: Any) -> None:
    write("bad", {**good(), field: value})
    with pytest.raises(FormatError):
        sessions.load("bad")


def test_an_oversize_file_is_refused_without_being_parsed() -> None:
    file = write("big", b"")
    with file.open("wb") as stream:
        stream.truncate(sessions.MAX_BYTES + 1)
    with pytest.raises(FormatError, match="larger than 64 MiB"):
        sessions.load("big")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_does_not_hang() -> None:
    sessions.save(Session("a", "m"))
    os.mkfifo(sessions.path("pipe"))
    with pytest.raises(FormatError, match="not a regular file"):
        sessions.load("pipe")


def test_mutants_are_refused_or_sound() -> None:
    data = json.dumps(good()).encode()
    draw = random.Random(7)
    n_loaded = 0
    for _ in range(1000):
        mutant = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(mutant))
            if draw.random() < 0.5:
                mutant[at] ^= 1 << draw.randrange(8)
            else:
                del mutant[at : at + draw.randint(1, 20)]
        write("mutant", bytes(mutant))
        try:
            sound = sessions.load("mutant")
        except EdgeInferError as error:
            assert isinstance(error, FormatError)  # noqa: PT017
        else:
            assert all(turn.content.encode() is not None for turn in sound.turns)
            n_loaded += 1
    assert 0 < n_loaded < 1000


@pytest.mark.parametrize("ids", ["1 -2", "x", "1.5", "٣", "9999999999", [1, 2], 7, None, "1" * 20])
def test_ids_that_are_none_are_refused(ids: object) -> None:
    document = good()
    document["messages"][2]["ids"] = ids
    write("bad", document)
    with pytest.raises(FormatError, match="ids"):
        sessions.load("bad")


def test_two_conversations_begun_in_one_second_have_two_names() -> None:
    """Bug: the second took over the file of the first, which had not been saved yet."""
    assert len({sessions.fresh_name() for _ in range(20)}) == 20
