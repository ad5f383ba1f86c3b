"""The conversation as one sees it: a document that grows at its end, and follows the growth unless the reader has
scrolled up. Knows turns and text, no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PySide6.QtCore import Qt, QTimer, QUrl, Signal
from PySide6.QtGui import QContextMenuEvent, QDesktopServices, QGuiApplication, QTextBlock, QTextDocument
from PySide6.QtWidgets import QTextBrowser, QWidget

from edgeinfer.desktop.growing import GrowingAnswer
from edgeinfer.desktop.theme import LIGHT, Theme
from edgeinfer.desktop.writer import Writer, is_code
from edgeinfer.sessions import Turn

__all__ = ["Transcript"]

_SLICE_S = 0.012  # of a frame, for writing what is there already
_PIECE = 1200  # characters of it at a time
_CALM = 4  # a frame's work is followed by so many times its length of rest
_FRAME_S = 0.033


class Transcript(QTextBrowser):
    """``pull`` is emitted when it is time for more of the answer that grows; `grow` takes it."""

    pull = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName("Conversation")
        self.setUndoRedoEnabled(False)
        self.setOpenLinks(False)
        self.anchorClicked.connect(QDesktopServices.openUrl)
        self.document().setDocumentMargin(16)
        self._theme: Theme = LIGHT
        self._writer = Writer(self.document(), LIGHT)
        self._answer: GrowingAnswer | None = None
        self._work: list[Iterator[None]] = []
        self._writing = QTimer(self, interval=0)
        self._writing.timeout.connect(self._write_on)
        self._pulling = QTimer(self, singleShot=True, timerType=Qt.TimerType.PreciseTimer)
        self._pulling.timeout.connect(self.pull)

    def loadResource(self, kind: int, name: QUrl | str) -> Any:  # noqa: ARG002
        """Nothing is ever loaded on a model's word."""
        return None

    # ---- what is there already

    def show_turns(self, turns: Sequence[Turn], theme: Theme) -> None:
        """Begin anew with these turns. Long ones are written over several frames; `busy` until then."""
        self._work.clear()
        self._pulling.stop()
        self._answer, self._theme = None, theme
        self.clear()
        document: QTextDocument = self.document()
        self._writer = Writer(document, theme)
        self._work = [self._turn(turn) for turn in turns]
        self._write_on()

    @property
    def busy(self) -> bool:
        return bool(self._work)

    def _do(self, work: Callable[[], None]) -> None:
        """Now, or after what is still being written."""
        if self._work:
            self._work.append(_once(work))
        else:
            work()

    def _write_on(self) -> None:
        end = time.perf_counter() + _SLICE_S
        with _Following(self):
            while self._work and time.perf_counter() < end:
                try:
                    next(self._work[0])
                except StopIteration:
                    del self._work[0]
        if self._work and not self._writing.isActive():
            self._writing.start()
        elif not self._work:
            self._writing.stop()

    def _turn(self, turn: Turn) -> Iterator[None]:
        self._head(turn.role)
        if turn.role == "assistant":
            answer = GrowingAnswer(self._writer)
            for begin in range(0, len(turn.content), _PIECE):
                answer.feed(turn.content[begin : begin + _PIECE])
                yield
            answer.finish()
        else:
            lines = turn.content.split("\n")
            for i in range(0, len(lines), 40):
                self._writer.together(lambda i=i: self._writer.plain("\n".join(lines[i : i + 40])))  # type: ignore[misc]
                yield
        if turn.finish == "cancelled":
            self._writer.plain("stopped", colour=self._theme.muted, small=True)

    def _head(self, role: str) -> None:
        name, colour = {
            "user": ("You", self._theme.accent),
            "assistant": ("Answer", self._theme.text),
            "system": ("System prompt", self._theme.muted),
        }.get(role, (role, self._theme.muted))
        if self._writer.end:
            self._writer.plain("")
        self._writer.plain(name, colour=colour, bold=True, small=True)

    # ---- what comes

    def add_question(self, text: str) -> None:
        self._do(lambda: self._question(text))

    def _question(self, text: str) -> None:
        with _Following(self, anyway=True):
            self._head("user")
            self._writer.plain(text)

    def begin_answer(self) -> None:
        self._do(self._begin)
        self._pulling.start(0)

    def _begin(self) -> None:
        with _Following(self):
            self._head("assistant")
            self._answer = GrowingAnswer(self._writer)

    def grow(self, text: str) -> None:
        """More of the answer. The next `pull` comes the later the longer this took: the window stays free."""
        begin = time.perf_counter()
        if text:
            self._do(lambda: self._feed(text))
        self._pulling.start(round(1000 * max(_FRAME_S, _CALM * (time.perf_counter() - begin))))

    def _feed(self, text: str) -> None:
        if self._answer is not None:
            with _Following(self):
                self._answer.feed(text)

    def end_answer(self, remarks: Sequence[str] = ()) -> None:
        """The answer is whole; ``remarks`` stand under it."""
        self._pulling.stop()
        self._do(lambda: self._end(remarks))

    def _end(self, remarks: Sequence[str]) -> None:
        with _Following(self):
            if self._answer is not None:
                self._answer.finish()
            self._answer = None
            for line in remarks:
                self._writer.plain(line, colour=self._theme.muted, small=True)

    def note(self, text: str, *, error: bool = False) -> None:
        """A line that is not part of the conversation."""
        colour = self._theme.danger if error else self._theme.muted
        self._do(lambda: self._line(text, colour))

    def _line(self, text: str, colour: str) -> None:
        with _Following(self):
            self._writer.plain(text, colour=colour, small=True)

    # ---- copying code

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        menu = self.createStandardContextMenu(event.pos())
        block = self.cursorForPosition(event.pos()).block()
        if is_code(block):
            menu.addAction("Copy this code", lambda: QGuiApplication.clipboard().setText(self.code_at(block)))
        menu.exec(event.globalPos())
        menu.deleteLater()

    @staticmethod
    def code_at(block: QTextBlock) -> str:
        """The whole piece of code that the line is in."""
        while is_code(block.previous()) and block.blockFormat().topMargin() == 0:
            block = block.previous()
        lines = [block.text()]
        while is_code(block.next()) and block.next().blockFormat().topMargin() == 0:
            block = block.next()
            lines.append(block.text())
        return "\n".join(lines) + "\n"


def _once(work: Callable[[], None]) -> Iterator[None]:
    work()
    yield


class _Following:
    """While the document changes: stay at its end where the reader is there, else where the reader is."""

    def __init__(self, view: Transcript, *, anyway: bool = False) -> None:
        self._bar = view.verticalScrollBar()
        self._at_end = anyway or self._bar.value() >= self._bar.maximum() - 24

    def __enter__(self) -> None:
        self._value = self._bar.value()

    def __exit__(self, *error: object) -> None:
        self._bar.setValue(self._bar.maximum() if self._at_end else self._value)
