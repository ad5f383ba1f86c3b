"""Light and dark: the palettes of the application and the colours of a conversation. Knows no widget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QGuiApplication, QPalette

__all__ = ["DARK", "LIGHT", "Choice", "Theme", "chosen", "palette"]

Choice = Literal["system", "light", "dark"]


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours as ``#rrggbb``. Text on ``base`` and ``code`` has a contrast of at least 4.5 : 1 (tested). ``style``
    names the pygments style whose colours code gets."""

    name: Literal["light", "dark"]
    window: str
    base: str
    text: str
    muted: str
    accent: str
    danger: str
    code: str
    style: str


LIGHT = Theme("light", "#f3f3f5", "#ffffff", "#1c1c21", "#5f616b", "#1a56b8", "#b3261e", "#f8f8f8", "default")
DARK = Theme("dark", "#202124", "#17181b", "#e6e6ea", "#a3a5ae", "#8ab4f8", "#f28b82", "#24262b", "github-dark")


def chosen(choice: Choice) -> Theme:
    """The theme to use; ``system`` asks the desktop, which may not say."""
    if choice != "system":
        return DARK if choice == "dark" else LIGHT
    return DARK if QGuiApplication.styleHints().colorScheme() is Qt.ColorScheme.Dark else LIGHT


def palette(theme: Theme) -> QPalette:
    """What widgets are painted with, for Qt's own style (Fusion)."""
    made = QPalette(QColor(theme.window))  # shades of buttons and borders follow from the window's colour
    role = QPalette.ColorRole
    colours = {
        role.WindowText: theme.text,
        role.Base: theme.base,
        role.AlternateBase: theme.code,
        role.Text: theme.text,
        role.ButtonText: theme.text,
        role.ToolTipBase: theme.code,
        role.ToolTipText: theme.text,
        role.PlaceholderText: theme.muted,
        role.Highlight: theme.accent,
        role.HighlightedText: theme.base,
        role.Link: theme.accent,
        role.LinkVisited: theme.accent,
    }
    for name, colour in colours.items():
        made.setColor(name, QColor(colour))
    for name in (role.WindowText, role.Text, role.ButtonText):
        made.setColor(QPalette.ColorGroup.Disabled, name, QColor(theme.muted))
    return made
