"""The chat over the scripted engine, with keys through a pipe: commands, saving, what the model is sent."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted_drafts
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from edgeinfer import sessions
from edgeinfer.cli import Terminated
from edgeinfer.cli.chatting.repl import Repl
from edgeinfer.cli.chatting.screen import Screen
from edgeinfer.conversation import named, unnamed
from edgeinfer.core import Answer, GenerationStats
from edgeinfer.errors import FormatError, ModelNotFound
from edgeinfer.llm import LLM
from edgeinfer.sessions import Session, Turn
from edgeinfer.speculate import Speculator
from edgeinfer.speculate.ngram import NgramDrafter

LEAVE = "\x04"


class Chat:
    """Type lines, get what the screen showed without its escape sequences (``raw``: with them)."""

    def __init__(self, scripted: Any, pipe: PipeInput, capsys: pytest.CaptureFixture[str]) -> None:
        self.scripted, self.pipe, self.capsys = scripted, pipe, capsys
        self.raw = ""

    def __call__(self, *lines: str, session: Session | None = None) -> str:
        session = session or unnamed("scripted", {"temperature": 0.0})
        repl = Repl(self.scripted("scripted", {}), "scripted", {}, session)
        self.pipe.send_text("".join(line + "\r" for line in lines) + LEAVE)
        try:
            repl.run()
        finally:
            repl.close()
            self.raw = self.capsys.readouterr().out
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", self.raw)


@pytest.fixture
def chat(scripted: Any, capsys: pytest.CaptureFixture[str]) -> Iterator[Chat]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield Chat(scripted, pipe, capsys)


def interrupt() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return ""


def contents(name: str) -> list[str]:
    return [turn.content for turn in sessions.load(name).turns]


def newest() -> str:
    name = sessions.newest()
    assert name
    return name


def test_a_conversation(chat: Chat, scripted: Any) -> None:
    screen = chat("one", "two")
    assert "You said: one" in screen
    assert "You said: two" in screen
    assert re.search(r"first token \d+\.\d\d s · \d+\.\d tok/s · 13 tokens · reused 0 · context \d+/4096", screen)
    # the second turn computes only what is new: the first prompt and its answer are there already
    assert f"reused {len('|user: one|assistant: You said: one')}" in screen
    assert scripted.seen[1] == "|user: one|assistant: You said: one|user: two|assistant: "
    assert contents(newest()) == ["one", "You said: one", "two", "You said: two"]
    assert f"saved as {newest()}; edgeinfer chat --continue goes on with it" in screen


def test_what_drafts_have_won_is_said(chat: Chat, scripted: Any) -> None:
    """The scripted engine's answers repeat the question, so that drafts from the text are right, and checking any
    number of tokens costs what one does."""
    question = "the same words again and again, " * 4
    assert "draft" not in chat(question, "/stats"), "nothing about drafts where none were made"
    scripted.speculator = lambda: Speculator(scripted_drafts.FLAT, NgramDrafter())
    screen = chat(question, "/stats")
    line = re.search(r"accepted (\d+)/(\d+) drafted, gain \d+\.\d\dx", screen)
    said = re.search(r"drafts: (\d+) tokens in (\d+) rounds, (\d+) accepted; \d+\.\d\d times as fast", screen)
    assert line
    assert said
    assert 0 < int(line[1]) <= int(line[2])
    assert (said[1], said[3]) == (line[2], line[1])
    assert 0 < int(said[2]) < int(said[1])
    assert contents(newest())[1].strip() == f"You said: {question}".strip()


def test_leaving_without_a_word_saves_nothing(chat: Chat) -> None:
    for line in ("", "/exit", "/quit", "/bye", "/system x", "/set temp 1"):
        assert "saved" not in chat(line)
    assert sessions.newest() is None


def test_undo_and_regen(chat: Chat, scripted: Any) -> None:
    screen = chat("/undo", "one", "two", "/undo", "three", "/regen", "/undo", "/undo", "/undo", "/regen")
    assert contents(newest()) == []
    assert screen.count("error: there is nothing to take back") == 2
    assert screen.count("error: there is nothing to answer again") == 1
    assert "taken back: two" in screen
    assert "the same question has the same answer" in screen
    assert [prompt.count("|user") for prompt in scripted.seen] == [1, 2, 2, 2]


def test_regen_with_a_seed_takes_the_next_seed(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    stream = LLM.stream

    def watched(llm: LLM, prompt: Any, **options: Any) -> Any:
        seeds.append(options["seed"])
        return stream(llm, prompt, **options)

    monkeypatch.setattr(LLM, "stream", watched)
    chat("one", "/regen", "/regen", session=unnamed("m", {"seed": 7}))
    assert seeds == [7, 8, 9]


def test_a_regen_that_is_stopped_at_once_keeps_the_answer(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Screen.draw
    nothing = Answer("", (), "cancelled", GenerationStats())
    monkeypatch.setattr(Screen, "draw", lambda screen, stream: nothing if chat.scripted.seen else drawn(screen, stream))
    screen = chat("one", "/regen", "two")
    assert screen.count("the question is taken back]") == 2
    assert contents(newest()) == ["one", "You said: one"]


def test_system_and_settings_reach_the_model(chat: Chat, scripted: Any) -> None:
    screen = chat(
        "/system", "/system Be brief", "one", "/system -", "two", "/set max-tokens 3", "three", "/set", "/set x 1"
    )
    assert "no system prompt; /system TEXT sets one" in screen
    assert [prompt.startswith("|system: Be brief|") for prompt in scripted.seen] == [True, False, False]
    assert "max-tokens is now 3" in screen
    assert contents(newest())[-1] == "You"
    assert "[cut off: /set max-tokens default lets it go on]" in screen
    assert re.search(r"max-tokens +3\n", screen)
    assert "error: no setting 'x'" in screen
    assert sessions.load(newest()).settings == {"temperature": 0.0, "max_tokens": 3}


def test_save_load_clear(chat: Chat, scripted: Any) -> None:
    screen = chat(
        "one", "/save first", "/clear", "two", "/save ../x", "/save first", "/load first", "three", "/load no"
    )
    assert contents("first") == ["one", "You said: one", "three", "You said: three"]
    assert scripted.seen[1] == "|user: two|assistant: "
    assert scripted.seen[2].startswith("|user: one|")
    assert "the last one is saved as first" in screen
    assert "session name '../x' is not usable" in screen
    assert "there is a session 'first' already" in screen
    assert "there is no session 'no'" in screen
    assert len(sessions.listing()) == 3  # named by date when they began, and one saved under a second name


def test_a_damaged_session_does_not_touch_the_conversation(chat: Chat) -> None:
    sessions.save(Session("bad", "m"))
    sessions.path("bad").write_text("[" * 10_000)
    screen = chat("one", "/load bad", "two")
    assert "error: session 'bad' cannot be read: nested too deeply" in screen
    assert "You said: two" in screen
    with pytest.raises(FormatError):
        sessions.load("bad")


def test_resuming_shows_where_it_stood(chat: Chat, scripted: Any) -> None:
    turns = (Turn("user", "old"), Turn("assistant", "answer \x1b[2J\n" * 9, "cancelled"))
    sessions.save(Session("s", "other", turns, {"temperature": 0.0}))
    screen = chat("new", session=named("s", "m", {}))
    assert "session s, 2 messages" in screen
    assert "> old" in screen
    assert "answer \\x1b[2J" in screen
    assert "… 6 more lines" in screen
    assert "[stopped]" in screen
    assert scripted.seen[0].startswith("|user: old|assistant: answer")
    assert len(sessions.load("s").turns) == 4


def test_read_and_export(chat: Chat, scripted: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("some notes")
    big = tmp_path / "big.txt"
    big.write_text("x" * 5000)
    screen = chat(
        f"/read {notes}", "what?", "again", f"/read {big}", "/read", f"/read {tmp_path}/none",
        f"/export {tmp_path}/a.md", f"/export {tmp_path}/a.md", f"/export {tmp_path}/a.json",
        f"/export {tmp_path}/a.txt", f"/export {notes}", "/export",
    )  # fmt: skip
    assert scripted.seen[0] == "|user: notes.txt:\n\nsome notes\n\nwhat?|assistant: "
    assert scripted.seen[1].endswith("|user: again|assistant: ")
    assert "notes.txt (10 tokens) goes with your next message" in screen
    assert "5000 tokens but the context holds 4096" in " ".join(screen.split())
    assert screen.count("error: ") == 6
    markdown = (tmp_path / "a.md").read_text()
    assert "## User\n\nagain\n\n## Assistant\n\nYou said: again\n" in markdown
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["messages"][-1] == {"role": "assistant", "content": "You said: again", "finish": "stop"}
    assert notes.read_text() == "some notes"


def test_a_question_that_does_not_fit_leaves_the_conversation(chat: Chat, scripted: Any) -> None:
    scripted.n_ctx = 60
    screen = chat("x" * 100, "one")
    assert "error: the prompt has" in screen
    assert contents(newest()) == ["one", "You said: one"]


def test_what_is_no_command_is_a_message(chat: Chat) -> None:
    screen = chat("/usr/bin/env is what?", "/hlep", "/xyzzy", "/HELP", "/?", " /stats")
    assert "You said: /usr/bin/env is what?" in screen
    assert "no command /hlep; did you mean 'help'? (/help lists them)" in screen
    assert "no command /xyzzy (/help lists them)" in screen
    assert "/export FILE" in screen
    assert "of 4096 tokens" in screen


def test_ctrl_c_stops_the_answer_and_keeps_it(chat: Chat, scripted: Any) -> None:
    def reply(question: str) -> str:
        if question == "long" and not interrupted:
            interrupted.append(1)
            interrupt()
        return "x" * 3000 if question == "long" else "short"

    interrupted: list[int] = []
    scripted.reply, scripted.step_s = reply, 0.002
    screen = chat("long", "next")
    assert "[stopped]" in screen
    question, answer, _, last = sessions.load(newest()).turns
    assert question.content == "long"
    assert answer.finish == "cancelled"
    assert 0 < len(answer.content) < 3000
    assert (last.content, last.finish) == ("short", "stop")


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
def test_a_second_ctrl_c_leaves_and_keeps_what_came(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def draw(_: Screen, stream: Any) -> None:
        for token in stream:
            if token.text == ":":
                raise error

    monkeypatch.setattr(Screen, "draw", draw)
    with pytest.raises(error):
        chat("one")
    turn = sessions.load(newest()).turns[-1]
    assert (turn.content, turn.finish) == ("You said:", "cancelled")


def test_switching_models(chat: Chat, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def opening(name: str, arguments: Any, *, spinner: bool) -> Any:
        if name == "damaged":
            raise FormatError("damaged")
        return scripted(name, arguments, spinner=spinner)

    def fetch(name: str) -> None:
        if name == "missing":
            raise ModelNotFound("no model 'missing'")

    monkeypatch.setattr("edgeinfer.cli.loading.open_llm", opening)
    monkeypatch.setattr("edgeinfer.cli.loading.fetch", fetch)
    screen = chat("/model", "one", "/model missing", "/model damaged", "two", "/model other", "three")
    assert "scripted: script, 0 M parameters" in screen
    assert "error: no model 'missing'" in screen
    assert "scripted stays" in screen
    assert "error: damaged" in screen
    assert [name for name, _ in scripted.opened] == ["scripted", "scripted", "other"]
    assert "You said: three" in screen
    assert sessions.load(newest()).model == "other"


def test_a_full_disk_is_said_once(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Session) -> None:
        raise OSError(28, "No space left on device", "/x")

    monkeypatch.setattr("edgeinfer.sessions.save", full)
    screen = chat("one", "two", "/save x")
    assert "You said: two" in screen
    assert screen.count("the conversation is not being saved") == 1
    assert "error: No space left on device: /x" in screen
    assert "saved as" not in screen


def test_nothing_hostile_reaches_the_terminal(scripted: Any, chat: Chat) -> None:
    scripted.reply = lambda _: "\x1b]52;c;aGk=\x07 \x9b2J \u202e &#x1b;[2J `\x1b[2J`\n```\n\x1b[2J\n```\n"
    chat("one \x1b", "/stats", "/undo")
    ours = re.sub(r"\x1b\[([0-9;]*m|[0-9]*A|[JK])", "", chat.raw)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", ours)
    assert "52;c;aGk=" in ours
