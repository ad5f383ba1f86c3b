"""The window: wires the conversation, the worker and the widgets. Nothing here takes longer than a frame."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QCoreApplication, QSettings, QTimer, Signal, Slot
from PySide6.QtGui import QAction, QActionGroup, QCloseEvent, QGuiApplication, QKeySequence
from PySide6.QtWidgets import QApplication, QFileDialog, QMainWindow

from edgeinfer import env, sessions
from edgeinfer.conversation import Conversation, timing
from edgeinfer.core import Answer
from edgeinfer.desktop import theme as themes
from edgeinfer.desktop.highlight import highlighted
from edgeinfer.desktop.layout import Layout
from edgeinfer.desktop.worker import Asking, Loading, Worker, described
from edgeinfer.errors import EdgeInferError, RequestCancelled, UsageError
from edgeinfer.sessions import Entry, Session
from edgeinfer.text.markdown import parser

if TYPE_CHECKING:
    from edgeinfer.llm import LLM

__all__ = ["Window"]

_PATIENCE_S = 20.0
_SAVE_MS = 300


class Window(QMainWindow):
    """One conversation at a time, with one model. ``open_model`` is `LLM` or what stands for it in a test; it gets
    ``arguments``. ``answered`` brings each answer once it is in the conversation, or the error that came instead."""

    answered = Signal(object)
    listed = Signal(object)

    def __init__(self, open_model: Callable[..., LLM], arguments: Mapping[str, Any], session: Session) -> None:
        super().__init__()
        self.llm: LLM | None = None
        self.worker = Worker()
        self.conversation = Conversation(session, changed=self._save)
        self._open_model, self._arguments = open_model, dict(arguments)
        self._model = ""
        self._asking: Asking | None = None
        self._loading: Loading | None = None
        self._before: Session | None = None
        self._wanted: str | None = None
        self._problem = ""
        self._listing = sessions.Listing()
        self._unsaved: Session | None = None
        self._saving = QTimer(self, interval=_SAVE_MS, singleShot=True)
        self._saving.timeout.connect(self._save_soon)
        self._kept = QSettings(str(env.data_dir() / "desktop.ini"), QSettings.Format.IniFormat)
        self.ui = Layout(self)
        self._make_actions()
        self._connect()
        self.set_theme(str(self._kept.value("theme", "system")))
        self._show_conversation()
        self.worker.do(_warm)
        self.refresh_sessions()
        self.open_model(session.model)

    # ---- the model

    def open_model(self, name: str) -> None:
        """Go on with this model; it is fetched and loaded while the window stays as it is."""
        if self._loading is not None or (name == self._model and self.llm is not None):
            self.ui.model(self._loading.name if self._loading is not None else name)
            return
        self.stop()
        self._loading = loading = Loading(self._open_model, name, self._arguments)
        loading.said.connect(lambda text: self.ui.busy(f"{name}: {text}"))
        loading.at.connect(self.ui.progress)
        loading.ended.connect(self._loaded)
        self.ui.busy(f"loading {name}")
        self.ui.model(name)
        self._update()
        old, self.llm = self.llm, None
        if old is not None:
            self.worker.do(old.close)  # first, because there may not be room for two
        self.worker.do(loading.run)

    @Slot(object)
    def _loaded(self, outcome: LLM | EdgeInferError) -> None:
        loading, self._loading = self._loading, None
        self.ui.idle()
        if loading is None:
            return
        if isinstance(outcome, EdgeInferError):
            self.ui.transcript.note(str(outcome), error=not isinstance(outcome, RequestCancelled))
            self._update()
            if self._model and self._model != loading.name:
                previous, self._model = self._model, ""
                self.ui.transcript.note(f"{previous} stays")
                self.open_model(previous)
            elif self._wanted is not None:
                self.answered.emit(outcome)
            return
        self.llm, self._model = outcome, loading.name
        self.conversation.set_model(outcome, loading.name)
        for line in outcome.notices:
            self.ui.transcript.note(line)
        self.ui.model(loading.name)
        self.ui.plan(outcome)
        self._update()
        if self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            self.ask(wanted)

    def choose_file(self) -> None:
        """A model that lies somewhere on this machine."""
        name, _ = QFileDialog.getOpenFileName(self, "Open a model", "", "Models (*.gguf)")
        if name:
            self.open_model(name)

    # ---- answers

    def ask(self, text: str) -> None:
        """Answer this, at once or as soon as the model is there."""
        if self._asking is not None or not text.strip():
            return
        if self.llm is None:
            self._wanted = text
            self.ui.busy("the question waits for the model" if self._loading else "there is no model: choose one above")
            return
        self.conversation.set_model(self.llm, self._model)
        self._asking = asking = Asking(self.llm, self.conversation, text)
        asking.ended.connect(self._ended)
        self.ui.composer.clear()
        self.ui.transcript.add_question(text)
        self.ui.transcript.begin_answer()
        self.ui.timing("reading …")
        self._update()
        self.worker.do(asking.run)

    def stop(self) -> None:
        """Stop the answer, or the download, that is on its way."""
        if self._asking is not None:
            self._asking.stop()
            self.ui.transcript.grow(self._asking.take())
        elif self._loading is not None:
            self._loading.stop()

    @Slot()
    def _pull(self) -> None:
        if self._asking is not None:
            self.ui.transcript.grow(self._asking.take())

    @Slot(object)
    def _ended(self, outcome: Answer | EdgeInferError) -> None:
        asking, self._asking = self._asking, None
        if asking is None:
            return
        self.ui.transcript.grow(asking.take())
        before, self._before = self._before, None
        if isinstance(outcome, Answer):
            kept = self.conversation.answered(asking.question, outcome)
            self.ui.transcript.end_answer([*asking.notices, *_remarks(outcome, kept, self._n_ctx)])
            self.ui.timing(" · ".join(timing(outcome.stats, self._n_ctx)))
        else:
            kept = False
            self.ui.transcript.end_answer()
            self.ui.transcript.note(str(outcome), error=True)
            self.ui.timing("")
        if not kept and before is not None:
            self.conversation.restore(before)
        if (not kept and before is not None) or self._shown != self.theme:
            self._show_conversation()
        elif not kept:
            self.ui.composer.setPlainText(asking.question)
        self._update()
        self.answered.emit(outcome)

    @property
    def _n_ctx(self) -> int:
        return self.llm.n_ctx if self.llm is not None else 0

    def regenerate(self) -> None:
        """Another answer to the last question."""
        if self._asking is not None or self.llm is None:
            return
        before = self.conversation.session
        question = self.conversation.regenerate()
        if question is not None:
            self._before = before
            self._show_conversation()
            self.ask(question)

    def edit_last(self) -> None:
        """Take the last question back into the field, with its answer."""
        if self._asking is None and (question := self.conversation.undo()) is not None:
            self._show_conversation()
            self.ui.composer.setPlainText(question)
            self.ui.composer.setFocus()
            self._update()

    def copy_answer(self) -> None:
        """The last answer's markdown, to the clipboard."""
        answers = [turn.content for turn in self.conversation.turns if turn.role == "assistant"]
        if answers:
            QGuiApplication.clipboard().setText(answers[-1])

    # ---- conversations

    def new_conversation(self) -> None:
        if self._asking is None:
            self.conversation.clear()
            self._show_conversation()
            self.ui.composer.setFocus()
            self._update()

    def open_session(self, name: str) -> None:
        """Go on with a conversation of earlier. It is answered by the model that is open."""
        if self._asking is not None or name == self.conversation.session.name:
            return
        try:
            self.conversation.load(name)
        except EdgeInferError as error:
            self.ui.transcript.note(str(error), error=True)
            return
        self._show_conversation()
        model = self.conversation.session.model
        if model != self._model and self._model:
            self.ui.transcript.note(f"this was a conversation with {model}; {self._model} goes on with it")
        self._update()

    def export(self) -> None:
        """Write the conversation to a file."""
        name, _ = QFileDialog.getSaveFileName(self, "Export", f"{self.conversation.session.name}.md", "*.md *.json")
        if name:
            try:
                self.conversation.export(Path(name))
            except EdgeInferError as error:
                self.ui.transcript.note(str(error), error=True)

    def _show_conversation(self) -> None:
        self._shown = self.theme
        self.ui.transcript.show_turns(self.conversation.turns, self.theme)
        self.ui.settings.fill(self.conversation.settings, self.conversation.system or "")

    def _save(self, conversation: Conversation) -> None:
        """Soon, and in the worker's thread: many changes are one, and the disk may be slow."""
        if self._unsaved is not None and self._unsaved.name != conversation.session.name:
            self._save_soon()
        self._unsaved = conversation.session
        self._saving.start()

    @Slot()
    def _save_soon(self) -> None:
        if self._unsaved is not None:
            session, self._unsaved = self._unsaved, None
            self.worker.do(functools.partial(self._write_session, session))

    def _write_session(self, session: Session) -> None:
        try:
            if not any(turn.role != "system" for turn in session.turns) and not sessions.exists(session.name):
                return
            sessions.save(session)
        except OSError as error:
            problem = f"the conversation is not being saved: {described(error)}"
            if problem != self._problem:
                self._problem = problem
                self.worker.failed.emit(problem)
        else:
            self._problem = ""
            self._list_sessions()

    def refresh_sessions(self) -> None:
        self.worker.do(self._list_sessions)

    def _list_sessions(self) -> None:
        self.listed.emit(self._listing.newest())

    @Slot(object)
    def _show_sessions(self, entries: list[Entry]) -> None:
        self.ui.sessions(entries, self.conversation.session.name)

    # ---- settings and looks

    def set_option(self, name: str, value: object) -> None:
        try:
            self.conversation.set_option(name, value)
        except UsageError as error:
            self.ui.transcript.note(str(error), error=True)

    def set_theme(self, choice: str) -> None:
        self._choice: themes.Choice = "light" if choice == "light" else "dark" if choice == "dark" else "system"
        self._kept.setValue("theme", self._choice)
        self.theme = themes.chosen(self._choice)
        QApplication.setPalette(themes.palette(self.theme))
        if self._asking is None:
            self._show_conversation()

    def _make_actions(self) -> None:
        menu = self.menuBar()
        chat, view = menu.addMenu("&Conversation"), menu.addMenu("&View")
        entries: tuple[tuple[str, str, Callable[[], object]], ...] = (
            ("&New", "Ctrl+N", self.new_conversation),
            ("&Stop", "Esc", self.stop),
            ("&Regenerate", "Ctrl+R", self.regenerate),
            ("&Edit the last question", "Ctrl+Up", self.edit_last),
            ("&Copy the last answer", "Ctrl+Shift+C", self.copy_answer),
            ("E&xport …", "Ctrl+E", self.export),
            ("&Open a model file …", "Ctrl+O", self.choose_file),
            ("&Write", "Ctrl+L", self.ui.composer.setFocus),
            ("&Quit", "Ctrl+Q", self.close),
        )
        self.actions_by_name: dict[str, QAction] = {}
        for label, keys, does in entries:
            action = chat.addAction(label)
            action.setShortcut(QKeySequence(keys))
            action.triggered.connect(lambda _checked=False, does=does: does())
            self.actions_by_name[label.replace("&", "").rstrip(" …")] = action
        view.addAction(self.ui.settings_dock.toggleViewAction())
        self.ui.settings_dock.toggleViewAction().setShortcut(QKeySequence("Ctrl+,"))
        for label, keys, steps in (("&Larger text", "Ctrl++", 1), ("S&maller text", "Ctrl+-", -1)):
            view.addAction(label, QKeySequence(keys), functools.partial(self.ui.zoom, steps))
        group = QActionGroup(self)
        for choice in ("system", "light", "dark"):
            action = view.addAction(f"{choice.capitalize()} &theme" if choice == "system" else choice.capitalize())
            action.setCheckable(True)
            action.setChecked(self._kept.value("theme", "system") == choice)
            action.triggered.connect(functools.partial(self.set_theme, choice))
            group.addAction(action)

    def _connect(self) -> None:
        ui = self.ui
        ui.composer.sent.connect(self.ask)
        ui.composer.recall.connect(self.edit_last)
        ui.send.clicked.connect(lambda: self.ask(ui.composer.toPlainText()))
        ui.stop.clicked.connect(self.stop)
        ui.again.clicked.connect(self.regenerate)
        ui.fresh.clicked.connect(self.new_conversation)
        ui.transcript.pull.connect(self._pull)
        ui.settings.changed.connect(self.set_option)
        ui.settings.system_changed.connect(self.conversation.set_system)
        ui.model_chosen.connect(self.open_model)
        ui.file_wanted.connect(self.choose_file)
        ui.session_chosen.connect(self.open_session)
        self.worker.failed.connect(lambda text: ui.transcript.note(text, error=True))
        self.listed.connect(self._show_sessions)
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._system_theme_changed)

    def _system_theme_changed(self) -> None:
        if self._choice == "system":
            self.set_theme("system")

    def _update(self) -> None:
        """What can be done now."""
        asking, loading = self._asking is not None, self._loading is not None
        has_question = any(turn.role == "user" for turn in self.conversation.turns)
        self.ui.enable(send=not asking, stop=asking or loading, again=has_question and not asking and not loading)
        self.actions_by_name["Regenerate"].setEnabled(has_question and not asking and not loading)
        title = self.conversation.session.name
        self.setWindowTitle(f"{title} – edgeinfer")

    def closeEvent(self, event: QCloseEvent) -> None:
        """The window goes at once; `finish` sees to the rest."""
        self.stop()
        event.accept()

    def finish(self) -> bool:
        """After the event loop: keep what was said, save, free the model. False where that took too long and was given
        up."""
        end = time.monotonic() + _PATIENCE_S
        self.stop()
        while (self._asking is not None or self._loading is not None) and time.monotonic() < end:
            QCoreApplication.processEvents()
            time.sleep(0.005)
        self._save_soon()
        if self.llm is not None:
            self.worker.do(self.llm.close)
        return self.worker.finish(max(0.1, end - time.monotonic()))


def _warm() -> None:
    """Load what the first answer will need: it takes several frames, and the window has none to spare then."""
    parser()
    for style in (themes.LIGHT.style, themes.DARK.style):
        highlighted(["pass"], "python", style)


def _remarks(answer: Answer, kept: bool, n_ctx: int) -> list[str]:
    if answer.finish_reason == "cancelled":
        return ["stopped" if kept else "stopped before an answer began"]
    if answer.finish_reason == "length":
        full = answer.stats.n_prompt + answer.stats.n_generated >= n_ctx
        return ["the context is full" if full else "cut off at the longest answer that the settings allow"]
    return [] if answer.text else ["an empty answer"]
