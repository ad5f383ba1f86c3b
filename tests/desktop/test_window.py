"""What one does with the window, over a scripted model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QMimeData, Qt, QUrl
from PySide6.QtGui import QGuiApplication, QPalette, QTextDocument
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget
from scripted_chat import ANSWER, scripted

from edgeinfer import LLM, sessions
from edgeinfer.core import Answer
from edgeinfer.desktop.window import Window
from edgeinfer.errors import EdgeInferError, ModelNotFound
from edgeinfer.sessions import Turn

Make = Callable[..., Window]
Wait = Callable[..., None]


def ask(window: Window, text: str, wait: Wait) -> Answer:
    heard: list[Any] = []
    window.answered.connect(heard.append)
    window.ask(text)
    wait(lambda: heard)
    window.answered.disconnect(heard.append)
    assert isinstance(heard[0], Answer)
    return heard[0]


def shown(window: Window) -> str:
    return window.ui.transcript.toPlainText()


def test_a_question_typed_and_answered(windows: Make, wait: Wait) -> None:
    window = windows()
    QTest.keyClicks(window.ui.composer, "What is a wheel?")
    QTest.keyClick(window.ui.composer, Qt.Key.Key_Return)
    wait(lambda: len(window.conversation.turns) == 2)
    assert window.ui.composer.toPlainText() == ""
    text = shown(window)
    assert "What is a wheel?" in text
    assert "Räder" in text
    assert "**" not in text
    assert "```" not in text
    assert "turn(1)" in text
    assert "tok/s" in window.ui._timing.text()
    wait(lambda: sessions.exists(window.conversation.session.name))
    assert sessions.load(window.conversation.session.name).turns[1].content == ANSWER


def test_shift_enter_is_a_new_line(windows: Make) -> None:
    composer = windows().ui.composer
    low = composer.height()
    for _ in range(4):
        QTest.keyClick(composer, Qt.Key.Key_A)
        QTest.keyClick(composer, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    assert composer.toPlainText() == "a\na\na\na\n"
    assert composer.height() > low


def test_stop_is_effective_at_once_and_keeps_what_was_said(windows: Make, wait: Wait) -> None:
    window = windows(partial(scripted, answer="word " * 500, step_s=0.002))
    wait(lambda: window.llm)
    ended: list[Any] = []
    window.answered.connect(lambda answer: ended.append((time.perf_counter(), answer)))
    window.ask("go on")
    wait(lambda: "word word" in shown(window))
    begin = time.perf_counter()
    QTest.mouseClick(window.ui.stop, Qt.MouseButton.LeftButton)
    wait(lambda: ended)
    assert ended[0][0] - begin < 0.05
    assert ended[0][1].finish_reason == "cancelled"
    assert "stopped" in shown(window)
    assert window.conversation.turns[-1].finish == "cancelled"
    assert window.conversation.turns[-1].content.strip() in " ".join(shown(window).split())


def test_stop_before_the_answer_begins_gives_the_question_back(windows: Make, wait: Wait) -> None:
    window = windows(partial(scripted, step_s=0.02))
    wait(lambda: window.llm)
    window.ask("x" * 100)
    window.stop()
    wait(lambda: window.ui.composer.toPlainText() == "x" * 100)
    assert not window.conversation.turns


def test_regenerate_and_edit(windows: Make, wait: Wait) -> None:
    window = windows()
    wait(lambda: window.llm)
    ask(window, "first", wait)
    ask(window, "second", wait)
    heard: list[Any] = []
    window.answered.connect(heard.append)
    window.regenerate()
    wait(lambda: heard)
    assert [turn.content for turn in window.conversation.turns] == ["first", ANSWER, "second", ANSWER]
    assert shown(window).count("second") == 1
    QTest.keyClick(window.ui.composer, Qt.Key.Key_Up)
    assert window.ui.composer.toPlainText() == "second"
    assert len(window.conversation.turns) == 2
    assert "second" not in shown(window)


def test_a_regenerated_answer_that_is_stopped_at_once_leaves_the_old_one(windows: Make, wait: Wait) -> None:
    window = windows(partial(scripted, step_s=0.001))
    wait(lambda: window.llm)
    ask(window, "first", wait)
    window.regenerate()
    window.stop()
    wait(lambda: window._asking is None)
    assert [turn.content for turn in window.conversation.turns] == ["first", ANSWER]
    assert "Räder" in shown(window)


def test_sessions_come_back(windows: Make, wait: Wait) -> None:
    window = windows()
    wait(lambda: window.llm)
    ask(window, "about wheels", wait)
    first = window.conversation.session.name
    window.new_conversation()
    assert shown(window) == ""
    ask(window, "about bears", wait)
    wait(lambda: window.ui._sessions.count() == 2)
    names = [window.ui._sessions.item(i).text() for i in range(2)]
    assert sorted(names) == ["about bears", "about wheels"]
    window.ui._session_chosen(window.ui._sessions.item(names.index("about wheels")))
    assert window.conversation.session.name == first
    assert "about wheels" in shown(window)
    assert "about bears" not in shown(window)


def test_a_damaged_session_is_said_and_changes_nothing(windows: Make, wait: Wait) -> None:
    window = windows()
    wait(lambda: window.llm)
    ask(window, "about wheels", wait)
    wait(lambda: sessions.exists(window.conversation.session.name))
    sessions.path("broken").write_text("{", encoding="utf-8")
    window.open_session("broken")
    assert "cannot be read" in shown(window)
    assert window.conversation.turns[0].content == "about wheels"


def test_settings_reach_the_request(windows: Make, wait: Wait) -> None:
    window = windows()
    wait(lambda: window.llm)
    window.ui.settings._max_tokens.setValue(3)
    window.ui.settings._numbers["temperature"].setValue(0.7)
    window.ui.settings._seed.setText("5")
    window.ui.settings._tell_seed()
    window.ui.settings._system.setPlainText("be kind")
    answer = ask(window, "x", wait)
    assert answer.stats.n_generated == 3
    assert "cut off" in shown(window)
    assert window.conversation.settings["seed"] == 5
    assert window.conversation.system == "be kind"
    kept = window.conversation.session.name
    wait(lambda: sessions.exists(kept))
    window.new_conversation()
    assert window.conversation.settings["temperature"] == 0.7


def test_the_model_is_loaded_beside_the_window(windows: Make, wait: Wait) -> None:
    """With its progress; and a question waits for it."""
    go = threading.Event()

    def slow(name: str, progress: Any, said: Callable[[str], None], **_: Any) -> LLM:
        said("measuring once")
        progress.update(30, 100)
        go.wait(60)
        return scripted(name)

    window = windows(slow)
    heard: list[Any] = []
    window.answered.connect(heard.append)
    wait(lambda: window.ui._progress.value() == 300)
    assert "measuring once" in window.ui._doing.text()
    window.ask("early")
    assert not heard
    go.set()
    wait(lambda: heard)
    assert not window.ui._progress.isVisible()


def test_a_download_can_be_stopped(windows: Make, wait: Wait) -> None:
    def endless(name: str, progress: Any, **_: Any) -> LLM:  # noqa: ARG001
        while True:
            progress.update(1, 2)
            time.sleep(0.005)

    window = windows(endless)
    wait(lambda: window.ui._progress.value() == 500)
    QTest.keyClick(window, Qt.Key.Key_Escape)
    window.stop()
    wait(lambda: "what arrived is kept" in shown(window))
    assert window.llm is None


def test_the_old_model_stays_where_another_cannot_be_opened(windows: Make, wait: Wait) -> None:
    def only_one(name: str, **rest: Any) -> LLM:
        if name == "other":
            raise ModelNotFound("no model 'other'")
        return scripted(name, **rest)

    window = windows(only_one)
    wait(lambda: window.llm)
    window.open_model("other")
    wait(lambda: "scripted stays" in shown(window))
    wait(lambda: window.llm)
    assert "no model 'other'" in shown(window)
    assert ask(window, "x", wait).text == ANSWER


def test_an_error_of_a_request_is_shown_and_the_question_kept(windows: Make, wait: Wait) -> None:
    window = windows(partial(scripted, n_ctx=256))
    wait(lambda: window.llm)
    heard: list[Any] = []
    window.answered.connect(heard.append)
    window.ask("y" * 400)
    wait(lambda: heard)
    assert isinstance(heard[0], EdgeInferError)
    assert "the context holds 256" in shown(window)
    assert window.ui.composer.toPlainText() == "y" * 400
    window.ui.composer.clear()
    assert ask(window, "x", wait).text == ANSWER


def test_a_disk_that_cannot_be_written_is_said_once(windows: Make, wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_session: object) -> None:
        raise OSError(28, "No space left on device", "sessions")

    monkeypatch.setattr(sessions, "save", full)
    window = windows()
    wait(lambda: window.llm)
    ask(window, "one", wait)
    wait(lambda: "not being saved: No space left" in shown(window))
    ask(window, "two", wait)
    time.sleep(0.4)
    wait(lambda: window._unsaved is None)
    assert shown(window).count("not being saved") == 1


def test_closing_in_the_middle_keeps_what_was_said(windows: Make, wait: Wait) -> None:
    window = windows(partial(scripted, answer="word " * 300, step_s=0.002))
    wait(lambda: window.llm)
    llm = window.llm
    window.ask("go on")
    wait(lambda: "word word" in shown(window))
    window.close()
    assert window.finish()
    saved = sessions.load(window.conversation.session.name)
    assert saved.turns[1].content.startswith("word word")
    assert saved.turns[1].finish == "cancelled"
    assert llm
    with pytest.raises(EdgeInferError, match="closed"):
        llm.generate("x")


def test_light_and_dark(windows: Make, wait: Wait, application: QApplication) -> None:
    window = windows()
    wait(lambda: window.llm)
    ask(window, "x", wait)
    grounds = {}
    for choice in ("light", "dark"):
        window.set_theme(choice)
        application.processEvents()
        grounds[choice] = window.palette().color(QPalette.ColorRole.Base).lightness()
        wait(lambda: not window.ui.transcript.busy)
        assert "Räder" in shown(window)
    assert grounds["light"] > 200 > 60 > grounds["dark"]


def test_everything_has_a_name_for_those_who_cannot_see(windows: Make) -> None:
    window = windows()
    ui = window.ui
    for widget in (ui.transcript, ui.composer, ui._models, ui._sessions):
        assert widget.accessibleName()
    order: list[QWidget] = []
    following = ui.composer.nextInFocusChain()
    while following is not None and following is not ui.composer:
        order.append(following)
        following = following.nextInFocusChain()
    for needed in (ui.transcript, ui.send, ui.stop, ui._models, ui._sessions):
        assert needed in order
    assert {action.shortcut().toString() for action in window.actions_by_name.values()} >= {"Ctrl+N", "Esc", "Ctrl+R"}


def test_code_is_copied_whole(windows: Make, wait: Wait) -> None:
    window = windows(partial(scripted, answer="```\na = 1\n\nb = 2\n```\n```\nother\n```\n"))
    wait(lambda: window.llm)
    ask(window, "x", wait)
    block = window.ui.transcript.document().find("b = 2").block()
    assert window.ui.transcript.code_at(block) == "a = 1\n\nb = 2\n"
    window.copy_answer()
    assert QGuiApplication.clipboard().text() == window.conversation.turns[-1].content


def test_the_transcript_loads_nothing(windows: Make, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    transcript = windows().ui.transcript
    kind = QTextDocument.ResourceType.ImageResource.value
    assert transcript.loadResource(kind, QUrl.fromLocalFile(str(secret))) is None


def test_what_is_pasted_is_text(windows: Make) -> None:
    composer = windows().ui.composer
    data = QMimeData()
    data.setHtml("<b>bold</b>")
    data.setText("bold")
    composer.insertFromMimeData(data)
    assert composer.toPlainText() == "bold"


def test_a_long_conversation_is_written_over_several_frames(windows: Make, wait: Wait) -> None:
    window = windows()
    wait(lambda: window.llm)
    turns = [Turn(role, f"{i} " + ANSWER * 20) for i in range(20) for role in ("user", "assistant")]
    window.ui.transcript.show_turns(turns, window.theme)
    assert window.ui.transcript.busy
    window.ui.transcript.note("comes last")
    wait(lambda: not window.ui.transcript.busy)
    text = shown(window)
    assert text.count("turn(1)") == 20 * 20 * 2
    assert text.rstrip().endswith("comes last")


def test_the_listing_survives_what_is_no_session(windows: Make, wait: Wait) -> None:
    window = windows()
    wait(lambda: window.llm)
    ask(window, "about wheels", wait)
    wait(lambda: window.ui._sessions.count() == 1)
    sessions.path("broken").write_text(json.dumps([]), encoding="utf-8")
    window.refresh_sessions()
    wait(lambda: window.ui._sessions.count() == 2)
    assert "cannot be read" in window.ui._sessions.item(0).text() + window.ui._sessions.item(1).text()
