"""One prompt, one answer, over the scripted engine: what goes to standard output, and what does not."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeinfer import sessions
from edgeinfer.cli import main
from edgeinfer.sessions import Session, Turn

CHAT = ["chat", "--temp", "0"]


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_the_answer_alone_is_on_stdout(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CHAT, "-p", "Grüße"]) == 0
    assert capsys.readouterr() == ("You said: Grüße\n", "")
    assert scripted.seen == ["|user: GrÃ¼Ã\x9fe|assistant: "]
    assert sessions.newest() is None


def test_prompt_file_and_stdin_are_joined(
    scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    file.write_text("from a file\n")
    stdin(monkeypatch, b"from a pipe\r\n")
    assert main([*CHAT, "-p", "asked", "-f", str(file), "-sys", "Be brief"]) == 0
    assert capsys.readouterr().out == "You said: asked\n\nfrom a file\n\nfrom a pipe\n"
    assert scripted.seen[0].startswith("|system: Be brief|user: asked")


def test_stdin_alone_is_the_prompt(
    scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, b"hello\n")
    assert main(CHAT) == 0
    assert capsys.readouterr().out == "You said: hello\n"
    assert scripted.opened[0][0] == "smollm2-135m"


@pytest.mark.parametrize("data", [b"", b"\n", b" \n", b"\xff\xfe"])
def test_a_prompt_that_is_none(
    scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    stdin(monkeypatch, data)
    assert main(CHAT) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert scripted.opened == []


def test_without_any_stdin(scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main([*CHAT, "-p", "x"]) == 0
    assert main(CHAT) == 2
    assert scripted.opened
    assert "the prompt is empty" in capsys.readouterr().err


def test_generate_takes_the_text_as_it_is(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.raw = True
    scripted.reply = lambda _: " and so on"
    assert main(["generate", "-p", "Once ", "--temp", "0"]) == 0
    assert capsys.readouterr() == (" and so on\n", "")
    assert scripted.seen == ["Once "]


def test_a_pipe_gets_the_text_raw_and_a_terminal_does_not(
    scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.reply = lambda _: "a\x1b[31mb\tc\n"
    assert main([*CHAT, "-p", "x"]) == 0
    assert capsys.readouterr().out == "a\x1b[31mb\tc\n\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main([*CHAT, "-p", "x"]) == 0
    assert capsys.readouterr().out == "a\\x1b[31mb\tc\n\n"


def test_json_is_one_object_on_one_line(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.reply = lambda _: "ö\x1b"
    assert main([*CHAT, "-p", "x", "--json", "--logprobs", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    assert "\x1b" not in out
    document = json.loads(out)
    assert document["text"] == "ö\x1b"
    assert document["token_ids"][:2] == list("ö".encode())
    assert (document["model"], document["finish_reason"], document["notices"]) == ("scripted", "stop", [])
    stats = {"n_prompt", "n_reused", "n_generated", "n_drafted", "n_accepted", "ttft_s", "prefill_tps", "decode_tps"}
    assert stats <= set(document["stats"])
    assert document["stats"]["n_prompt"] == len("|user: x|assistant: ")
    first, second = document["logprobs"][:2]
    assert (first["text"], second["text"]) == ("", "ö")
    assert len(first["top"]) == 2
    assert first["top"][0] == {"id": first["id"], "logprob": first["logprob"]}


def test_what_was_dropped_is_said(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.n_ctx = 200
    turns = tuple(turn for _ in range(5) for turn in (Turn("user", "q" * 20), Turn("assistant", "a" * 20)))
    sessions.save(Session("long", "m", turns))
    assert main([*CHAT, "-p", "x", "--session", "long"]) == 2
    assert "tokens but the context holds 200" in capsys.readouterr().err
    assert main([*CHAT, "-p", "x", "--session", "long", "--on-overflow", "drop-oldest"]) == 0
    out, err = capsys.readouterr()
    assert out == "You said: x\n"
    assert "were dropped" in err
    assert len(sessions.load("long").turns) == 12


def test_a_session_goes_on_where_it_was(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CHAT, "-p", "one", "--session", "s", "-sys", "Be brief", "-m", "other", "--top-k", "3"]) == 0
    assert main(["chat", "-p", "two", "--continue"]) == 0
    assert capsys.readouterr().out == "You said: one\nYou said: two\n"
    assert scripted.seen[1] == "|system: Be brief|user: one|assistant: You said: one|user: two|assistant: "
    session = sessions.load("s")
    assert [turn.role for turn in session.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert session.settings == {"temperature": 0.0, "top_k": 3}
    assert [model for model, _ in scripted.opened] == ["other", "other"]
    assert main(["chat", "-p", "three", "--session", "s", "--top-k", "5", "-sys", "Be long", "-m", "third"]) == 0
    session = sessions.load("s")
    assert session.settings == {"temperature": 0.0, "top_k": 5}
    assert session.turns[0].content == "Be long"
    assert session.model == "third"


def test_a_damaged_session_is_said_and_left_alone(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sessions.save(Session("s", "m"))
    sessions.path("s").write_text("{")
    assert main(["chat", "-p", "x", "--continue"]) == 1
    assert "session 's' cannot be read" in capsys.readouterr().err
    assert sessions.path("s").read_text() == "{"
    assert scripted.opened == []


def test_ctrl_c_keeps_what_came(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    n_asked = 0

    def reply(_: str) -> str:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return "x" * 3000

    scripted.reply, scripted.step_s = reply, 0.002
    assert main([*CHAT, "-p", "x", "--session", "s"]) == 130
    out, err = capsys.readouterr()
    assert 10 < len(out) < 3000
    assert out.strip("x") == "\n"
    assert err == "edgeinfer: interrupted\n"
    kept = sessions.load("s").turns[-1]
    assert kept.finish == "cancelled"
    assert kept.content == out.strip()


def test_a_reader_that_leaves_stops_the_answer(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    scripted.reply = lambda _: "x" * 3000
    monkeypatch.setattr(sys, "stdout", Closed())
    assert main([*CHAT, "-p", "x"]) == 141


def test_listing_sessions(scripted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--list-sessions"]) == 0
    assert capsys.readouterr() == ("", "no conversations yet\n")
    sessions.save(Session("good", "m\x1b", (Turn("user", "What\nis \x1b[31mthis?"),)))
    sessions.save(Session("bad", "m"))
    sessions.path("bad").write_text("{")
    assert main(["chat", "--list-sessions"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert "\x1b" not in out
    assert "What is \\x1b[31mthis?" in out
    assert "cannot be read" in out
    assert main(["chat", "--list-sessions", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["sessions"]
    assert {row["name"]: row["n_messages"] for row in rows} == {"good": 1, "bad": None}
    assert scripted.opened == []


def test_sessions_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines were longer than the terminal, which broke them in the middle of words."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    sessions.save(Session("good", "smollm2-135m", (Turn("user", "Tell me a long story about a ship and its crew."),)))
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    assert main(["chat", "--list-sessions"]) == 0
    (line,) = screen.getvalue().splitlines()
    assert len(line) == 70
    assert line.startswith("good  ")
    assert line.endswith("Tell me a long st…")


def test_a_chat_needs_a_terminal(
    scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert main(["chat"]) == 2
    assert main(["chat", "--json"]) == 2
    assert main(["generate"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 3
    assert scripted.opened == []
