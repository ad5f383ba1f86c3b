"""Windows without a screen, over models that are scripted: milliseconds each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("PySide6", reason="needs the extra [desktop]")
os.environ["QT_QPA_PLATFORM"] = "offscreen"

from PySide6.QtCore import QCoreApplication, QEvent
from PySide6.QtWidgets import QApplication
from scripted_chat import scripted

from edgeinfer import LLM
from edgeinfer.conversation import unnamed
from edgeinfer.desktop.app import need_qt
from edgeinfer.desktop.window import Window


@pytest.fixture(scope="session", autouse=True)
def application() -> QApplication:
    need_qt()
    found = QApplication.instance()
    application = found if isinstance(found, QApplication) else QApplication(["tests"])
    application.setStyle("Fusion")
    return application


@pytest.fixture
def wait(application: QApplication) -> Callable[..., None]:
    """``wait(condition)``: let the window live until the condition holds."""

    def until(condition: Callable[[], object], timeout_s: float = 120) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, "it never came"
            application.processEvents()
            time.sleep(0.001)

    return until


@pytest.fixture
def windows() -> Iterator[Callable[..., Window]]:
    """``windows(open_model)``: an open window, which is closed at the end."""
    made: list[Window] = []

    def make(open_model: Callable[..., LLM] = scripted, **settings: Any) -> Window:
        window = Window(open_model, {}, unnamed("scripted", {"temperature": 0.0, **settings}))
        made.append(window)
        window.show()
        return window

    yield make
    for window in made:
        window.close()
        assert window.finish()
        window.deleteLater()
        QCoreApplication.sendPostedEvents(window, QEvent.Type.DeferredDelete.value)
