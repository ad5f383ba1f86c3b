"""The line editor, fed with keys through a pipe."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from edgeinfer.cli.chatting.editor import CommandCompleter, Editor, message_of

Type = Callable[[str], str]
TABLE = {
    "/save": ("name it", lambda: ["one", "two"]),
    "/set": ("change", None),
    "/read": ("a file", "path"),
}


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Type]:
    """What the editor makes of keys."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        editor = Editor(TABLE, tmp_path / "data" / "history")

        def read(keys: str) -> str:
            pipe.send_text(keys)
            return editor.read()

        yield read


LEFT, UP, ALT_ENTER, PASTE, PASTED = "\x1b[D", "\x1b[A", "\x1b\r", "\x1b[200~", "\x1b[201~"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("hello\r", "hello"),
        ("hllo" + LEFT * 3 + "e\r", "hello"),
        ("你好\x7f您\r", "你您"),
        ('"""one\rtwo\r"""\r', "one\ntwo"),
        ('"""one"""\r', "one"),
        ("one\\\rtwo\r", "one\ntwo"),
        ("one" + ALT_ENTER + "two\r", "one\ntwo"),
        (PASTE + "one\r\ntwo\nthree" + PASTED + "\r", "one\ntwo\nthree"),
        (PASTE + "one\n\x1b[31m" + PASTED + "\r", "one\n\x1b[31m"),
        ("a\\b\r", "a\\b"),
        ("forget\x03this\r", "this"),
        ('say """x"""\r', 'say """x"""'),
    ],
)
def test_keys(typed: Type, keys: str, message: str) -> None:
    assert typed(keys) == message


def test_history_is_recalled_and_private(typed: Type, tmp_path: Path) -> None:
    typed("first\r")
    typed("second" + ALT_ENTER + "line\r")
    assert typed(UP + UP + UP + "\r") == "first"
    path = tmp_path / "data" / "history"
    assert "second" in path.read_text()
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_leaving(typed: Type) -> None:
    with pytest.raises(EOFError):
        typed("\x04")
    with pytest.raises(KeyboardInterrupt):
        typed("\x03")


def test_a_history_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        editor = Editor(TABLE, tmp_path / "data" / "history")
        assert "not remembered" in str(editor.problem)
        pipe.send_text("x\r")
        assert editor.read() == "x"


@pytest.mark.parametrize(
    ("text", "completions"),
    [
        ("/s", ["/save", "/set"]),
        ("/save t", ["two"]),
        ("/set te", []),
        ("/nothing x", []),
        ("hello /s", []),
        ("/s\nx", []),
    ],
)
def test_completion(text: str, completions: list[str]) -> None:
    found = CommandCompleter(TABLE).get_completions(Document(text), CompleteEvent(completion_requested=True))
    assert [completion.text for completion in found] == completions


def test_paths_are_completed(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    document = Document(f"/read {tmp_path}/no")
    found = list(CommandCompleter(TABLE).get_completions(document, CompleteEvent(completion_requested=True)))
    assert [completion.text for completion in found] == ["tes.md"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("x\n", "x"), ('"""', ""), ('"""a', "a"), ('  """\na\n"""  ', "a"), ('""""""', ""), ("a  ", "a  ")],
)
def test_quotes_around_a_message(text: str, message: str) -> None:
    assert message_of(text) == message
