"""The line that is typed: history, completion, several lines in one message. Gives text; knows no conversation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from edgeinfer import env, files

__all__ = ["CommandCompleter", "Editor", "message_of"]

Words = Callable[[], Iterable[str]]
"""What may follow a command: asked for when Tab is pressed."""
_QUOTES = '"""'


class Editor:
    """Reads messages. ``commands`` maps a slash command to its help and to what may follow it: ``"path"``, a function
    that lists words, or None."""

    def __init__(self, commands: Mapping[str, tuple[str, Words | str | None]], history: Path) -> None:
        self.problem: str | None = None
        self._session: PromptSession[str] = PromptSession(
            message=[("bold ansicyan", "> ")],
            history=self._history(history),
            completer=CommandCompleter(commands),
            complete_while_typing=Condition(lambda: self._session.default_buffer.text.startswith("/")),
            multiline=True,
            prompt_continuation=_continuation,
            key_bindings=_bindings(),
            enable_open_in_editor=True,
            enable_suspend=True,
            tempfile_suffix=".md",
            reserve_space_for_menu=5,
            color_depth=ColorDepth.DEPTH_1_BIT if env.no_color() else None,
        )

    def read(self) -> str:
        """The next message. Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C on an empty line."""
        return message_of(_whole(self._session.prompt()))

    def _history(self, path: Path) -> History:
        try:
            files.private_dir(path.parent)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            path.chmod(0o600)
        except OSError as error:
            self.problem = f"what you type is not remembered: {error.strerror} ({path})"
            return InMemoryHistory()
        return _PrivateHistory(str(path))


class _PrivateHistory(FileHistory):
    """A history file whose failures cost the history, not the chat."""

    def store_string(self, string: str) -> None:
        try:
            super().store_string(_whole(string))
        except OSError:
            return


def _whole(text: str) -> str:
    """Without the halves of characters that a terminal in another encoding sends."""
    return text.encode("utf-8", "replace").decode()


def message_of(text: str) -> str:
    '''What was meant: the text between """ and """, or else the text as it was typed.'''
    stripped = text.strip()
    if not stripped.startswith(_QUOTES):
        return text.strip("\n")
    return stripped[3:].removesuffix(_QUOTES).strip("\n")


def _is_open(text: str) -> bool:
    stripped = text.strip()
    return stripped.startswith(_QUOTES) and not (stripped.endswith(_QUOTES) and len(stripped) >= 6)


def _continuation(width: int, line_number: int, wrap_count: int) -> StyleAndTextTuples:  # noqa: ARG001
    """What stands before a further line of the message; nothing before the rest of one that is only too long."""
    return [("fg:ansibrightblack", " " * width if wrap_count else "… "[:width])]


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # the first Enter takes what the menu offers
        elif _is_open(buffer.text):
            buffer.insert_text("\n")
        elif buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    def interrupt(event: KeyPressEvent) -> None:
        buffer: Buffer = event.current_buffer
        if buffer.text:
            buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return bindings


class CommandCompleter(Completer):
    """Slash commands, and what may follow them."""

    def __init__(self, commands: Mapping[str, tuple[str, Words | str | None]]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in document.text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            for known, (help_text, _) in self._commands.items():
                if known.startswith(name):
                    yield Completion(known, -len(name), display_meta=help_text)
            return
        _, follows = self._commands.get(name, ("", None))
        if follows == "path":
            yield from self._paths.get_completions(Document(rest), complete_event)
        elif callable(follows):
            yield from (Completion(word, -len(rest)) for word in follows() if word.startswith(rest))
