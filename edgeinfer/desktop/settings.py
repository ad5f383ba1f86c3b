"""How answers are made: the sampling settings of a conversation and its system prompt, as fields to fill in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QDoubleSpinBox,
    QFormLayout,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSpinBox,
    QWidget,
)

from edgeinfer.core import SamplingParams

__all__ = ["SettingsPanel"]

_DEFAULTS = SamplingParams()
_NUMBERS: tuple[tuple[str, str, float, float, float, str], ...] = (
    ("temperature", "&Temperature", 0, 5, 0.05, "0 always takes the likeliest token"),
    ("top_p", "Top-&p", 0.01, 1, 0.01, "only the likeliest tokens that add up to this (1: all)"),
    ("min_p", "&Min-p", 0, 1, 0.01, "only tokens at least so many times as likely as the best (0: all)"),
    ("repeat_penalty", "&Repeat penalty", 0.01, 5, 0.05, "above 1: what was said before becomes less likely"),
)
"""Field of `SamplingParams`, label, lowest, highest, step, what it means."""


class SettingsPanel(QWidget):
    """``changed`` brings an option of a request and its value, ``system_changed`` the system prompt. Settings that it
    does not show (a grammar, a bias) stay as they are."""

    changed = Signal(str, object)
    system_changed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._filling = False
        form = QFormLayout(self)
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapAllRows)
        self._system = QPlainTextEdit()
        self._system.setTabChangesFocus(True)
        self._system.setFixedHeight(5 * self.fontMetrics().lineSpacing())
        self._system.textChanged.connect(lambda: self._tell_system(self._system.toPlainText()))
        form.addRow("S&ystem prompt", self._system)
        self._numbers: dict[str, QDoubleSpinBox] = {}
        for name, label, low, high, step, help_text in _NUMBERS:
            box = QDoubleSpinBox(minimum=low, maximum=high, singleStep=step, decimals=2)
            box.setToolTip(help_text)
            box.valueChanged.connect(lambda value, name=name: self._tell(name, round(value, 2)))
            self._numbers[name] = box
            form.addRow(label, box)
        self._top_k = self._count("top_k", 1000, "all", "only so many of the likeliest tokens")
        form.addRow("Top-&k", self._top_k)
        self._max_tokens = self._count("max_tokens", 1 << 20, "until it ends", "most tokens of an answer")
        form.addRow("&Longest answer", self._max_tokens)
        self._seed = QLineEdit(placeholderText="a fresh one")
        self._seed.setToolTip("same seed, same answer")
        self._seed.editingFinished.connect(self._tell_seed)
        form.addRow("&Seed", self._seed)
        defaults = QPushButton("&Defaults")
        defaults.clicked.connect(self._to_defaults)
        form.addRow(defaults)

    def _count(self, name: str, high: int, none: str, help_text: str) -> QSpinBox:
        """A whole number, whose 0 stands for ``none``."""
        box = QSpinBox(maximum=high)
        box.setSpecialValueText(none)
        box.setToolTip(help_text)
        empty = None if name == "max_tokens" else 0
        box.valueChanged.connect(lambda value: self._tell(name, value or empty))
        return box

    def fill(self, settings: Mapping[str, Any], system: str) -> None:
        """Show these, and tell nobody."""
        self._filling = True
        try:
            for name, box in self._numbers.items():
                box.setValue(settings.get(name, getattr(_DEFAULTS, name)))
            self._top_k.setValue(settings.get("top_k", _DEFAULTS.top_k))
            self._max_tokens.setValue(settings.get("max_tokens") or 0)
            seed = settings.get("seed")
            self._seed.setText("" if seed is None else str(seed))
            if self._system.toPlainText() != system:
                self._system.setPlainText(system)
        finally:
            self._filling = False

    def _tell(self, name: str, value: object) -> None:
        if not self._filling:
            self.changed.emit(name, value)

    def _tell_system(self, text: str) -> None:
        if not self._filling:
            self.system_changed.emit(text)

    def _tell_seed(self) -> None:
        text = self._seed.text().strip()
        good = text.isascii() and text.isdigit() and int(text) < 2**64
        if not good:
            self._seed.clear()
        self._tell("seed", int(text) if good else None)

    def _to_defaults(self) -> None:
        for name, box in self._numbers.items():
            box.setValue(getattr(_DEFAULTS, name))
        self._top_k.setValue(_DEFAULTS.top_k)
        self._max_tokens.setValue(0)
        self._seed.clear()
        self._tell("seed", None)
