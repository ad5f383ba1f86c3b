"""Where one writes: a field that grows with its text; Enter sends, Shift+Enter begins a line."""

from __future__ import annotations

from PySide6.QtCore import QMimeData, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QPlainTextEdit, QWidget

__all__ = ["Composer"]

_MOST_LINES = 10


class Composer(QPlainTextEdit):
    """``sent`` brings the text, which stays until `clear`: a question that is refused is not lost. ``recall`` asks for
    the last question (arrow up in an empty field)."""

    sent = Signal(str)
    recall = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName("Message")
        self.setPlaceholderText("Write a message")
        self.setToolTip("Enter sends, Shift+Enter begins a new line")
        self.setTabChangesFocus(True)
        self.textChanged.connect(self._fit)
        self._fit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        plain = not event.modifiers() & (Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.AltModifier)
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            if not plain:
                self.insertPlainText("\n")
            elif self.toPlainText().strip():
                self.sent.emit(self.toPlainText())
        elif event.key() == Qt.Key.Key_Up and self.document().isEmpty():
            self.recall.emit()
        else:
            super().keyPressEvent(event)

    def insertFromMimeData(self, source: QMimeData) -> None:
        """Text as text, wherever it comes from."""
        if source.hasText():
            self.insertPlainText(source.text())

    def _fit(self) -> None:
        n_lines = min(max(round(self.document().size().height()), 2), _MOST_LINES)  # its layout counts in lines
        frame = 2 * self.frameWidth() + 2 * round(self.document().documentMargin())
        self.setFixedHeight(n_lines * self.fontMetrics().lineSpacing() + frame)
