"""What the window shows and where: widgets and their names, no behaviour of the application."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil
from PySide6.QtCore import QObject, QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QDockWidget,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMainWindow,
    QProgressBar,
    QPushButton,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from edgeinfer import catalog
from edgeinfer.desktop.composer import Composer
from edgeinfer.desktop.settings import SettingsPanel
from edgeinfer.desktop.transcript import Transcript
from edgeinfer.errors import EdgeInferError
from edgeinfer.sessions import Entry
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.llm import LLM

__all__ = ["Layout"]

_FILE = "Open a model file …"
_MEMORY_MS = 1000


class Layout(QObject):
    """The widgets of a window. Signals say what was chosen in a list."""

    model_chosen = Signal(str)
    file_wanted = Signal()
    session_chosen = Signal(str)

    def __init__(self, window: QMainWindow) -> None:
        super().__init__(window)
        window.resize(1000, 720)
        self.transcript, self.composer, self.settings = Transcript(), Composer(), SettingsPanel()
        self.send, self.stop = QPushButton("Send"), QPushButton("Stop")
        self.again, self.fresh = QPushButton("Regenerate"), QPushButton("New conversation")
        for button, tip in (
            (self.send, "Enter"),
            (self.stop, "Escape"),
            (self.again, "Ctrl+R"),
            (self.fresh, "Ctrl+N"),
        ):
            button.setToolTip(tip)
        self._models = self._make_models()
        self._sessions = QListWidget()
        self._sessions.setAccessibleName("Conversations")
        self._sessions.setTextElideMode(Qt.TextElideMode.ElideRight)
        self._sessions.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._sessions.itemActivated.connect(self._session_chosen)
        self._sessions.itemClicked.connect(self._session_chosen)
        window.setCentralWidget(self._make_centre())
        self.settings_dock = QDockWidget("Settings", window)
        self.settings_dock.setWidget(self.settings)
        window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self.settings_dock)
        self.settings_dock.hide()
        self._make_status(window)
        self.composer.setFocus()

    def _make_models(self) -> QComboBox:
        box = QComboBox()
        box.setAccessibleName("Model")
        box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        for card in catalog.cards().values():
            if card.template.format == "none":
                continue  # it cannot chat
            try:
                catalog.resolve(card.name)
                label = card.name
            except EdgeInferError:
                label = f"{card.name} (to fetch: {card.bytes / 1e6:.0f} MB)"
            box.addItem(label, card.name)
            box.setItemData(box.count() - 1, card.description, Qt.ItemDataRole.ToolTipRole)
        box.addItem(_FILE, None)
        box.activated.connect(self._model_activated)
        return box

    def _make_centre(self) -> QWidget:
        left = QWidget()
        column = QVBoxLayout(left)
        column.addWidget(self.fresh)
        column.addWidget(self._sessions)
        right = QWidget()
        column = QVBoxLayout(right)
        head = QHBoxLayout()
        label = QLabel("&Model")
        label.setBuddy(self._models)
        head.addWidget(label)
        head.addWidget(self._models)
        head.addStretch()
        head.addWidget(self.again)
        column.addLayout(head)
        column.addWidget(self.transcript, 1)
        row = QHBoxLayout()
        row.addWidget(self.composer, 1)
        buttons = QVBoxLayout()
        buttons.addWidget(self.send)
        buttons.addWidget(self.stop)
        row.addLayout(buttons)
        column.addLayout(row)
        both = QSplitter()
        both.addWidget(left)
        both.addWidget(right)
        both.setStretchFactor(1, 1)
        both.setSizes([230, 770])
        return both

    def _make_status(self, window: QMainWindow) -> None:
        bar = window.statusBar()
        self._doing, self._timing, self._memory = QLabel(), QLabel(), QLabel()
        self._timing.setAccessibleName("What the last answer cost")
        self._memory.setAccessibleName("Memory")
        self._progress = QProgressBar(maximum=1000, textVisible=False)
        self._progress.setMaximumWidth(200)
        self._progress.hide()
        bar.addWidget(self._doing)
        bar.addWidget(self._progress)
        bar.addWidget(self._timing)
        bar.addPermanentWidget(self._memory)
        self._process = psutil.Process()
        self._clock = QTimer(self, interval=_MEMORY_MS)
        self._clock.timeout.connect(self._show_memory)
        self._clock.start()
        self._show_memory()

    # ---- what happens

    def busy(self, text: str) -> None:
        """Something takes a while."""
        self._doing.setText(printable(text)[:120])

    def progress(self, share: float) -> None:
        self._progress.show()
        self._progress.setValue(round(1000 * share))

    def idle(self) -> None:
        self._progress.hide()
        self._doing.clear()

    def timing(self, text: str) -> None:
        self._timing.setText(text)

    def plan(self, llm: LLM) -> None:
        """How much memory the model was planned to take."""
        if llm.plan is not None:
            self._memory.setToolTip(f"planned for the model: {llm.plan.total_bytes / 2**20:.0f} MiB")

    def _show_memory(self) -> None:
        used, free = self._process.memory_info().rss, psutil.virtual_memory().available
        self._memory.setText(f"{used / 2**20:.0f} MiB used · {free / 2**30:.1f} GiB free")

    def enable(self, *, send: bool, stop: bool, again: bool) -> None:
        self.send.setEnabled(send)
        self.stop.setEnabled(stop)
        self.again.setEnabled(again)

    def zoom(self, steps: int) -> None:
        self.transcript.zoomIn(steps)
        self.composer.zoomIn(steps)

    # ---- lists

    def model(self, name: str) -> None:
        """Show this as the model that is open."""
        at = self._models.findData(name)
        if at < 0:
            at = self._models.count() - 1
            self._models.insertItem(at, name.replace("\\", "/").rpartition("/")[2], name)
        self._models.setCurrentIndex(at)
        self._models.setItemText(at, self._models.itemText(at).partition(" (to fetch")[0])

    def _model_activated(self, at: int) -> None:
        name = self._models.itemData(at)
        if name is None:
            self.file_wanted.emit()
        else:
            self.model_chosen.emit(name)

    def sessions(self, entries: Sequence[Entry], current: str) -> None:
        """The conversations there are, the newest first."""
        with QSignalBlocker(self._sessions):
            self._sessions.clear()
            for entry in entries:
                item = QListWidgetItem(f"{entry.name} (cannot be read)" if entry.problem else printable(entry.title))
                item.setData(Qt.ItemDataRole.UserRole, entry.name)
                item.setToolTip(f"{entry.name}, {time.strftime('%Y-%m-%d %H:%M', time.localtime(entry.updated))}")
                if entry.problem:
                    item.setToolTip(entry.problem)
                self._sessions.addItem(item)
                if entry.name == current:
                    self._sessions.setCurrentItem(item)

    def _session_chosen(self, item: QListWidgetItem) -> None:
        self.session_chosen.emit(item.data(Qt.ItemDataRole.UserRole))
