"""What the chat writes to its terminal: remarks, errors, an answer while it comes. All of it passes `printable`."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from edgeinfer import env
from edgeinfer.cli.chatting.markdown import Markdown
from edgeinfer.cli.chatting.painter import Line, Painter
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.core import Answer
    from edgeinfer.llm import Stream

__all__ = ["Screen", "terminal_restored"]

_FRAME_S = 0.03  # the eye sees no more, and the model needs the processor


class Screen:
    """A terminal on standard output."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False, no_color=env.no_color())

    @property
    def width(self) -> int:
        """Columns to use: one less than there are, for terminals that disagree about a wide character."""
        return max(self._console.width - 1, 8)

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(printable(text), style), width=self.width + 1)

    def note(self, text: str) -> None:
        self.say(text, "dim")

    def error(self, text: str) -> None:
        self.say(f"error: {' '.join(text.split())}", "red")

    def brief(self, label: str, text: str, n_lines: int = 3) -> None:
        """The beginning of a longer text, to remind."""
        body = Text(f"{label} {printable(text).strip()}", "dim")
        lines = list(body.wrap(self._console, self.width))
        for line in lines[:n_lines]:
            self._console.print(line)
        if len(lines) > n_lines:
            self.note(f"… {len(lines) - n_lines} more lines")

    def draw(self, stream: Stream) -> Answer:
        """Show the answer as it comes. Ctrl-C stops it (finish reason ``cancelled``); a second one raises
        KeyboardInterrupt. Raises as `Stream` does; whatever happens, the cursor ends on a new line."""
        with terminal_restored(echo=False), _stoppable(stream):
            if self._console.is_dumb_terminal:
                return _plainly(stream)
            painter = Painter(_write, lambda: (self._console.width, self._console.height))
            try:
                self._animate(stream, painter)
            finally:
                painter.finish()
            return stream.answer

    def _animate(self, stream: Stream, painter: Painter) -> None:
        markdown = Markdown(lambda: self.width, None if env.no_color() else self._console.color_system)
        painter.update([], [Line("…", "\x1b[2m…\x1b[0m")])
        pending, drawn = "", 0.0
        for token in stream:
            pending += token.text
            if pending and time.monotonic() - drawn >= _FRAME_S:
                painter.update(*markdown.feed(pending))
                pending, drawn = "", time.monotonic()
        finished, _ = markdown.feed(pending)
        painter.update([*finished, *markdown.close()], [])


def _plainly(stream: Stream) -> Answer:
    for token in stream:
        _write(printable(token.text))
    _write("\n")
    return stream.answer


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def _stoppable(stream: Stream) -> Iterator[None]:
    """The first Ctrl-C cancels the stream, which then ends by itself; the second raises KeyboardInterrupt."""
    n_pressed = 0

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal n_pressed
        n_pressed += 1
        if n_pressed > 1:
            raise KeyboardInterrupt
        # In a thread of its own: this handler may have interrupted somebody who holds the lock that cancelling takes.
        threading.Thread(target=stream.cancel, daemon=True).start()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def terminal_restored(*, echo: bool = True) -> Iterator[None]:
    """The keyboard's modes at the end are those at the beginning, wherever a signal struck. Without ``echo``, what is
    typed meanwhile waits for the next prompt instead of showing up inside the answer."""
    try:
        import termios
    except ImportError:  # Windows does not echo between prompts
        yield
        return
    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, ValueError, OSError):
        yield
        return
    try:
        if not echo:
            silent = [*before]
            silent[3] &= ~termios.ECHO
            termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
